"""A small English-French corpus, written by a bilingual grammar from a seed.

Each sentence is built in both languages at once: articles and adjectives agree with the noun's gender and number, verbs
with their subject; there are three tenses, negation, questions, adverbs, prepositional phrases, elision (l', d', n',
qu') and contraction (du, aux). Words of a kind are drawn with probability proportional to 1/rank (Zipf), where rank is
the order in `tasks/toy/lexicon.py`. So a few words are frequent and most are rare, as in real text. Another exponent
makes them more alike, or less.

    >>> toy_corpus(2, seed=0) == toy_corpus(3, seed=0)[:2]
    True
"""

import itertools
import re
from dataclasses import dataclass

from tasks.toy.lexicon import LEXICON, Noun, Verb
from tasks.toy.ranks import ZipfRandom

VOWELS = "aeiouâàéèêîôûœh"
ASPIRATED = ("héros", "hérisson", "haricot", "homard", "haut", "huit", "onze")  # le héros, not l'héros
ELIDED = {
    "le": "l'", "la": "l'", "de": "d'", "ne": "n'", "je": "j'", "que": "qu'", "ce": "cet", "ma": "mon",
    "sa": "son",
}  # fmt: skip
CONTRACTED = {"de le": "du", "de les": "des", "à le": "au", "à les": "aux"}
AN_EXCEPTIONS = {
    "hour": "an", "honest": "an", "uniform": "a", "university": "a", "useful": "a", "useless": "a",
}  # fmt: skip

# English; French masculine, feminine, plural. Empty where there is none: "two" has no singular.
DETERMINERS = [
    ("the", "the", "le", "la", "les"), ("a", "some", "un", "une", "des"),
    ("my", "my", "mon", "ma", "mes"), ("this", "these", "ce", "cette", "ces"),
    ("his", "his", "son", "sa", "ses"), ("our", "our", "notre", "notre", "nos"),
    ("their", "their", "leur", "leur", "leurs"), ("your", "your", "votre", "votre", "vos"),
    ("each", "", "chaque", "chaque", ""), ("", "two", "", "", "deux"), ("", "three", "", "", "trois"),
    ("", "many", "", "", "beaucoup de"), ("", "several", "", "", "plusieurs"),
    ("", "four", "", "", "quatre"), ("", "five", "", "", "cinq"), ("", "ten", "", "", "dix"),
]  # fmt: skip
# English, French, person (index into the conjugations below), feminine, plural
PRONOUNS = [
    ("he", "il", 2, False, False), ("she", "elle", 2, True, False), ("I", "je", 0, False, False),
    ("they", "ils", 5, False, True), ("we", "nous", 3, False, True), ("you", "vous", 4, False, True),
]  # fmt: skip
PREPOSITIONS = [
    ("in", "dans"), ("with", "avec"), ("near", "près de"), ("behind", "derrière"),
    ("in front of", "devant"), ("under", "sous"), ("on", "sur"), ("for", "pour"), ("without", "sans"),
    ("against", "contre"), ("around", "autour de"), ("far from", "loin de"), ("toward", "vers"),
    ("thanks to", "grâce à"), ("between", "entre"),
]  # fmt: skip
CONJUNCTIONS = [
    ("and", "et"), ("but", "mais"), ("because", "parce que"), ("when", "quand"), ("or", "ou"),
    ("so", "donc"),
]  # fmt: skip
TENSES = ["present", "past", "future"]

# Persons in order: je, tu, il/elle, nous, vous, ils/elles. "tu" is never drawn: English does not show it.
PRESENT = ["e", "es", "e", "ons", "ez", "ent"]
FUTURE = ["ai", "as", "a", "ons", "ez", "ont"]
AVOIR = ["ai", "as", "a", "avons", "avez", "ont"]
ETRE = {
    "present": ["suis", "es", "est", "sommes", "êtes", "sont"],
    "past": ["étais", "étais", "était", "étions", "étiez", "étaient"],
    "future": ["serai", "seras", "sera", "serons", "serez", "seront"],
}
BE = {
    "present": ["am", "are", "is", "are", "are", "are"],
    "past": ["was", "were", "was", "were", "were", "were"],
}


@dataclass(frozen=True)
class Phrase:
    """A noun phrase in both languages, with what the rest of the sentence must agree with."""

    english: str
    french: list[str]  # words before elision and contraction
    person: int  # 0 to 5: je, tu, il, nous, vous, ils
    feminine: bool
    plural: bool


def toy_corpus(count: int, seed: int = 0, zipf: float = 1.0) -> list[dict]:
    """`count` rows {"translation": {"en", "fr"}}, the schema of opus_books; same seed, same rows.

    `zipf`: a word of rank r within its kind is drawn with probability proportional to r^-zipf; 0 makes all alike. How
    often a kind of word occurs is the grammar's."""
    rng = ZipfRandom(f"toy corpus {seed}")
    rng.exponent = zipf
    rows = []
    for _ in range(count):
        english, french = _sentence(rng)
        rows.append({"translation": {"en": english, "fr": french}})
    return rows


def _sentence(rng: ZipfRandom) -> tuple[str, str]:
    if rng.random() < 0.15:
        english, french = _clause(rng, question=True)
        mark, french_mark = "?", " ?"
    else:
        english, french = _clause(rng)
        mark = french_mark = "."
        if rng.random() < 0.25:
            (joint, french_joint), (english_2, french_2) = rng.by_rank(CONJUNCTIONS), _clause(rng)
            english, french = f"{english} {joint} {english_2}", [*french, *french_joint.split(), *french_2]
    text = join_french(french)
    return english[0].upper() + english[1:] + mark, text[0].upper() + text[1:] + french_mark


def _clause(rng: ZipfRandom, question: bool = False) -> tuple[str, list[str]]:
    """Subject, verb, object or adjective, then prepositional phrases and adverbs, alike in both languages."""
    tense, negated = rng.by_rank(TENSES), rng.random() < 0.25
    subject = _subject(rng)
    kind = rng.random()
    if kind < 0.25:
        adjective = rng.by_rank(LEXICON.adjectives)
        english, french = _be(subject, tense, negated, question)
        english, french = (
            f"{english} {adjective.english}",
            [*french, adjective.agree(subject.feminine, subject.plural)],
        )
    else:
        transitive = kind < 0.75
        verb = rng.by_rank(LEXICON.transitive if transitive else LEXICON.intransitive)
        english, french = conjugate(subject, verb, tense, negated, question)
        if transitive:
            thing = noun_phrase(rng, rng.by_rank(LEXICON.things), negated_object=negated)
            english, french = f"{english} {thing.english}", [*french, *thing.french]
    for probability in (0.45, 0.15):
        if rng.random() < probability:
            preposition, french_preposition = rng.by_rank(PREPOSITIONS)
            place = noun_phrase(rng, rng.by_rank(LEXICON.places), plural=True if preposition == "between" else None)
            english = f"{english} {preposition} {place.english}"
            french = [*french, *french_preposition.split(), *place.french]
    for probability, words in ((0.25, LEXICON.adverbs), (0.2, LEXICON.times[tense])):
        if rng.random() < probability:
            word, french_word = rng.by_rank(words)
            english, french = f"{english} {word}", [*french, *french_word.split()]
    return english, (["est-ce", "que"] if question else []) + french


def _subject(rng: ZipfRandom) -> Phrase:
    if rng.random() < 0.35:
        english, french, person, feminine, plural = rng.by_rank(PRONOUNS)
        return Phrase(english, [french], person, feminine, plural)
    subject = noun_phrase(rng, rng.by_rank(LEXICON.beings))
    if rng.random() < 0.12:  # the neighbor of the queen: "de" contracts with the owner's article
        owner = noun_phrase(rng, rng.by_rank(LEXICON.beings), simple=True)
        return Phrase(
            f"{subject.english} of {owner.english}",
            [*subject.french, "de", *owner.french],
            subject.person,
            subject.feminine,
            subject.plural,
        )
    return subject


def noun_phrase(
    rng: ZipfRandom,
    noun: Noun,
    plural: bool | None = None,
    negated_object: bool = False,
    simple: bool = False,
) -> Phrase:
    """Determiner, perhaps an adjective (not if `simple`), and the noun; `plural` None draws the number.

    Under negation an indefinite object takes "de" (il ne mange pas de pommes); before an adjective "des"
    becomes "de".
    """
    plural = rng.random() < 0.35 if plural is None else plural
    singular, plural_form, masculine, feminine, french_plural = rng.by_rank([d for d in DETERMINERS if d[plural]])
    determiner = french_plural if plural else feminine if noun.feminine else masculine
    before, after = "", ""
    english = noun.english_plural if plural else noun.english
    french_noun = noun.french_plural if plural else noun.french
    if not simple and rng.random() < 0.35:
        adjective = rng.by_rank(LEXICON.adjectives)
        english = f"{adjective.english} {english}"
        form = adjective.agree(noun.feminine, plural)
        if adjective.before_noun:
            liaison = adjective.before_vowel and not (noun.feminine or plural) and starts_with_vowel(french_noun)
            before = adjective.before_vowel if liaison else form
        else:
            after = form
    if singular == "a" and (negated_object or (plural and before)):
        determiner = "de"
    word = plural_form if plural else singular
    if word == "a":
        word = article(english)
    french = [*determiner.split(), *filter(None, [before, french_noun, after])]
    return Phrase(f"{word} {english}", french, 5 if plural else 2, noun.feminine, plural)


def conjugate(subject: Phrase, verb: Verb, tense: str, negated: bool, question: bool) -> tuple[str, list[str]]:
    """Subject and verb in both languages; the English past is the French passé composé (with avoir)."""
    auxiliary = {"present": "does" if subject.person == 2 else "do", "past": "did", "future": "will"}[tense]
    inflected = {
        "present": verb.third_person if subject.person == 2 else verb.english,
        "past": verb.past,
        "future": f"will {verb.english}",
    }[tense]
    english = _english_clause(subject.english, auxiliary, inflected, verb.english, negated, question)
    if tense == "past":
        return english, _french_clause(subject, AVOIR[subject.person], [verb.french[:-2] + "é"], negated)
    if tense == "future":
        return english, _french_clause(subject, verb.french + FUTURE[subject.person], [], negated)
    return english, _french_clause(subject, present(verb.french, subject.person), [], negated)


def _be(subject: Phrase, tense: str, negated: bool, question: bool) -> tuple[str, list[str]]:
    if tense == "future":
        english = _english_clause(subject.english, "will", "will be", "be", negated, question)
    else:
        form = BE[tense][subject.person]
        english = _english_clause(subject.english, form, form, "", negated, question)
    return english, _french_clause(subject, ETRE[tense][subject.person], [], negated)


def _english_clause(subject: str, auxiliary: str, inflected: str, base: str, negated: bool, question: bool) -> str:
    no = "not" if negated else ""
    words = (
        [auxiliary, subject, no, base]
        if question
        else [subject, auxiliary, no, base]
        if negated
        else [subject, inflected]
    )
    return " ".join(filter(None, words))


def _french_clause(subject: Phrase, verb: str, participle: list[str], negated: bool) -> list[str]:
    return [*subject.french, *(["ne", verb, "pas"] if negated else [verb]), *participle]


def present(infinitive: str, person: int) -> str:
    """Present of a regular -er verb; g and c stay soft before "ons": nous mangeons, nous lançons."""
    stem = infinitive[:-2]
    if person == 3 and stem.endswith("g"):
        stem += "e"
    if person == 3 and stem.endswith("c"):
        stem = stem[:-1] + "ç"
    return stem + PRESENT[person]


def article(following: str) -> str:
    """ "a" or "an", by the sound of the word that follows."""
    first = following.split()[0]
    return AN_EXCEPTIONS.get(first, "an" if first[0].lower() in "aeiou" else "a")


def starts_with_vowel(word: str) -> bool:
    """Whether le, de, ne, ... are elided before this French word; a mute h counts as a vowel."""
    return word[0] in VOWELS and not word.startswith(ASPIRATED)


def join_french(words: list[str]) -> str:
    """Words to text: first elision (le ami: l'ami), then contraction (de le chat: du chat)."""
    text = re.sub(r"\bde des?\b", "de", " ".join(words))  # près de + des maisons: près de maisons
    elided = [
        ELIDED[word] if word in ELIDED and starts_with_vowel(after) else word
        for word, after in itertools.pairwise([*text.split(), "."])
    ]
    text = " ".join(elided).replace("' ", "'")
    return re.sub(r"\b(de|à) les?\b", lambda pair: CONTRACTED[pair[0]], text)
