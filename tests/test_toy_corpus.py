"""The generated English-French corpus: agreement, elision, vocabulary, distribution, seed."""

import hashlib
import json
import math
import random
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from tasks.toy.corpus import (
    CONTRACTED,
    Phrase,
    article,
    conjugate,
    join_french,
    noun_phrase,
    present,
    starts_with_vowel,
    toy_corpus,
)
from tasks.toy.labeled import pictures, reviews, sentence_pairs
from tasks.toy.lexicon import LEXICON, Noun, Verb, french_feminine, french_plural
from tasks.toy.ranks import ZipfRandom

NOUNS = LEXICON.beings + LEXICON.things + LEXICON.places
VERBS = LEXICON.transitive + LEXICON.intransitive
THE_ADJECTIVES = {form: a for a in LEXICON.adjectives for form in (a.masculine, a.feminine, a.before_vowel) if form}


@cache
def texts(language, count=3000, seed=0):
    return tuple(row["translation"][language] for row in rows(count, seed))


@cache
def rows(count, seed):
    return toy_corpus(count, seed)


def test_same_seed_same_corpus_and_another_seed_another():
    assert toy_corpus(50, seed=3) == toy_corpus(50, seed=3)
    assert toy_corpus(50, seed=3) != toy_corpus(50, seed=4)


def test_generating_leaves_the_global_random_state_alone():
    before = random.getstate()
    toy_corpus(20)
    assert random.getstate() == before


def test_lexicon_has_500_words_in_each_language():
    english = {w.english for w in NOUNS + LEXICON.adjectives + VERBS} | {w for w, _ in LEXICON.adverbs}
    french = {w.french for w in NOUNS + VERBS} | {a.masculine for a in LEXICON.adjectives}
    assert len(english) >= 500
    assert len(french | {w for _, w in LEXICON.adverbs}) >= 500


@pytest.mark.parametrize("language", ["en", "fr"])
def test_corpus_uses_500_distinct_words(language):
    assert len({word for text in texts(language) for word in re.findall(r"[\w-]+", text.lower())}) >= 500


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_words_are_drawn_in_proportion_to_a_power_of_their_rank(exponent):
    rng, words = ZipfRandom(0), list(range(100))
    rng.exponent = exponent
    counts = Counter(rng.by_rank(words) for _ in range(50_000))
    total = sum(rank**-exponent for rank in range(1, 101))
    for rank in (1, 2, 5, 20):
        expected = 50_000 * rank**-exponent / total
        assert abs(counts[rank - 1] - expected) < 5 * math.sqrt(expected)  # five standard deviations


@pytest.mark.parametrize("exponent, share", [(0.0, 1 / 3), (1.0, 2 / 11), (2.0, 4 / 49)])  # the third of three tenses
def test_the_corpus_follows_the_exponent(exponent, share):
    english = [row["translation"]["en"] for row in toy_corpus(3000, zipf=exponent)]
    clauses = [text for text in english if not re.search(r"\b(and|but|because|when|or|so)\b", text)]
    future = sum(bool(re.search(r"\b[Ww]ill\b", text)) for text in clauses)
    assert abs(future - share * len(clauses)) < 4 * math.sqrt(share * len(clauses)) and len(clauses) > 1500


def test_generated_data_are_those_of_earlier_versions_unless_told_otherwise():
    def digest(rows):
        text = json.dumps(rows, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    made = toy_corpus(300, 2), reviews(100, 2), sentence_pairs(100, 2, 3)
    assert [digest(rows) for rows in made] == ["77ec9b53d62beeeb", "556a90b1cd372111", "7208cb4fb17a09a2"]
    assert [row["label"] for row in pictures(8, 2)] == [8, 2, 5, 9, 8, 7, 2, 6]
    assert toy_corpus(300, 2, zipf=1.0) == made[0] != toy_corpus(300, 2, zipf=0.0)


@pytest.mark.parametrize("make", [sentence_pairs, pictures])
def test_labels_follow_the_exponent(make):
    def labels(count, zipf):
        return Counter(row["label"] for row in make(count, 0, num_labels=3, zipf=zipf))

    found, expected = labels(600, 1.0), {0: 6 / 11, 1: 3 / 11, 2: 2 / 11}
    assert all(abs(found[k] - 600 * p) < 4 * math.sqrt(600 * p * (1 - p)) for k, p in expected.items())
    assert labels(200, 0.0) == labels(200, 0)


def test_the_stripes_of_a_picture_stand_at_the_angle_of_its_label():
    """The strongest frequency of the color channels' spectrum points across the stripes; 18 degrees per label."""
    side, right = 32, 0
    rows = pictures(100, 0)
    for row in rows:
        spectrum = np.abs(np.fft.fft2(row["image"].astype(float), axes=(0, 1))).sum(2)
        spectrum[0, 0] = 0
        y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
        y, x = (n - side if n > side / 2 else n for n in (y, x))
        right += round(np.arctan2(y, x) % np.pi / (np.pi / 10)) % 10 in ((row["label"] + k) % 10 for k in (-1, 0, 1))
    assert right > 85, "by chance 30"


def test_reviews_follow_the_exponent():
    bad = sum(row["label"] == 0 for row in reviews(600, 0, zipf=2.0))
    assert abs(bad - 480) < 4 * math.sqrt(600 * 0.8 * 0.2)


def test_sentences_vary_in_length():
    lengths = [len(text.split()) for text in texts("en")]
    assert min(lengths) <= 3
    assert max(lengths) >= 20
    assert len(set(lengths)) > 15


@pytest.mark.parametrize(
    "word, plural",
    [("chat", "chats"), ("journal", "journaux"), ("château", "châteaux"), ("jeu", "jeux"), ("fils", "fils"),
     ("bleu", "bleus"), ("riz", "riz")],
)  # fmt: skip
def test_french_plurals(word, plural):
    assert french_plural(word) == plural


@pytest.mark.parametrize(
    "word, feminine",
    [("rouge", "rouge"), ("petit", "petite"), ("heureux", "heureuse"), ("italien", "italienne"),
     ("léger", "légère"), ("actif", "active"), ("jaloux", "jalouse")],
)  # fmt: skip
def test_french_feminines(word, feminine):
    assert french_feminine(word) == feminine


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.english)
def test_article_and_adjective_agree_with_every_noun(noun):
    # An independent reading of the phrase: the determiner's gender and number against the noun's.
    rng = ZipfRandom(noun.english)
    masculine, feminine = {"un", "mon", "le", "ce", "cet", "son"}, {"une", "ma", "la", "cette", "sa"}
    plural = {
        "les",
        "des",
        "mes",
        "ces",
        "ses",
        "nos",
        "leurs",
        "vos",
        "deux",
        "trois",
        "quatre",
        "cinq",
        "dix",
    }
    for _ in range(40):
        phrase = noun_phrase(rng, noun)
        first, *middle = phrase.french
        form = noun.french_plural if phrase.plural else noun.french
        assert form in phrase.french
        assert phrase.feminine == noun.feminine
        if first in plural:
            assert phrase.plural
        if first in masculine | feminine:
            assert not phrase.plural
            assert first in (feminine if noun.feminine else masculine)
        for word in set(middle) & set(THE_ADJECTIVES):
            adjective = THE_ADJECTIVES[word]
            assert word in (adjective.agree(noun.feminine, phrase.plural), adjective.before_vowel)


def test_beautiful_takes_its_form_before_a_vowel():
    french = " ".join(texts("fr"))
    assert not re.search(r"\b(beau|nouveau|vieux) (ami|ours|enfant|avion|hôtel|hôpital|arbre)\b", french)
    assert re.search(r"\b(bel|nouvel|vieil) (ami|ours|enfant|avion|hôtel|hôpital|arbre)\b", french)


PERSONS = [("I", "je"), ("he", "il"), ("we", "nous"), ("you", "vous"), ("they", "ils")]
NUMBERS = {"I": 0, "he": 2, "we": 3, "you": 4, "they": 5}


@pytest.mark.parametrize(
    "pronoun, tense, negated, question, english, french",
    [
        ("he", "present", False, False, "he eats", "il mange"),
        ("they", "present", False, False, "they eat", "ils mangent"),
        ("we", "present", False, False, "we eat", "nous mangeons"),
        ("I", "present", True, False, "I do not eat", "je ne mange pas"),
        ("I", "past", False, False, "I ate", "j'ai mangé"),
        ("he", "past", True, False, "he did not eat", "il n'a pas mangé"),
        ("you", "past", False, True, "did you eat", "vous avez mangé"),
        ("they", "future", False, False, "they will eat", "ils mangeront"),
        ("he", "present", True, True, "does he not eat", "il ne mange pas"),
    ],
)
def test_verb_agrees_with_its_subject(pronoun, tense, negated, question, english, french):
    subject = Phrase(pronoun, [dict(PERSONS)[pronoun]], NUMBERS[pronoun], False, pronoun in ("we", "they"))
    built = conjugate(subject, Verb("eat", "eats", "ate", "manger"), tense, negated, question)
    assert (built[0], join_french(built[1])) == (english, french)


def test_c_stays_soft_before_ons():
    assert present("lancer", 3) == "lançons"
    assert present("lancer", 2) == "lance"


@pytest.mark.parametrize(
    "words, text",
    [
        ("le ami", "l'ami"),
        ("la école", "l'école"),
        ("près de le ami", "près de l'ami"),
        ("près de le chat", "près du chat"),
        ("grâce à les chats", "grâce aux chats"),
        ("près de des maisons", "près de maisons"),
        ("près de des amis", "près d'amis"),
        ("parce que elle ne aime pas", "parce qu'elle n'aime pas"),
        ("je aime ce homme", "j'aime cet homme"),
        ("ma école", "mon école"),
        ("le héros", "le héros"),
        ("le haricot", "le haricot"),
        ("est-ce que il chante", "est-ce qu'il chante"),
    ],
)
def test_elision_and_contraction(words, text):
    assert join_french(words.split()) == text


def test_no_sentence_misses_an_elision_or_contraction():
    for text in texts("fr"):
        lowered = text.lower()
        assert not any(re.search(rf"\b{pair}\b", lowered) for pair in CONTRACTED), text
        for word, after in re.findall(r"(?<![\w'-])(le|la|de|ne|je|que|ce) ([\w-]+)", lowered):
            assert not starts_with_vowel(after), (word, after, text)


def test_negated_object_takes_de():
    rng = ZipfRandom(0)
    noun = Noun("apple", "apples", "pomme", "pommes", True)
    phrases = [noun_phrase(rng, noun, negated_object=True) for _ in range(300)]
    assert not any(phrase.french[0] in ("une", "des") for phrase in phrases)
    assert any(phrase.french[0] == "de" for phrase in phrases)


@pytest.mark.parametrize("word, expected", [("apple", "an"), ("cat", "a"), ("honest man", "an"), ("useful box", "a")])
def test_a_or_an_by_sound(word, expected):
    assert article(word) == expected


def test_grammar_covers_tenses_negation_questions_adverbs_and_phrases():
    rows = toy_corpus(500)
    english = [row["translation"]["en"] for row in rows]
    for pattern in (
        r"\bwill\b",
        r"\bdid not\b|\bwas\b|\bwere\b",
        r"\bnot\b",
        r"\?$",
        r"\boften\b",
        r"\bin\b",
    ):
        assert any(re.search(pattern, text) for text in english), pattern
    assert all(row["translation"]["fr"].endswith((".", " ?")) for row in rows)
