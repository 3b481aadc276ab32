"""The words of the toy corpus, most frequent first: English=French, with irregular forms after a slash.

    nouns        cat=chat   man/men=homme   eye=œil/yeux            (English plural, French plural)
    adjectives   red=rouge  white=blanc/blanche                     (French feminine)
    verbs        watch=regarder  eat/ate=manger                     (English past); French regular -er verbs
    only
An underscore stands for a space. Regular forms follow from the rules at the end."""

import re
from dataclasses import dataclass

BEINGS_MASCULINE = """
man/men=homme friend=ami child/children=enfant boy=garçon dog=chien cat=chat father=père brother=frère
son=fils doctor=médecin student=étudiant neighbor=voisin king=roi teacher=professeur husband=mari
uncle=oncle baker=boulanger writer=écrivain soldier=soldat farmer=fermier butcher=boucher bird=oiseau
horse=cheval lawyer=avocat judge=juge cousin=cousin grandfather=grand-père/grands-pères gardener=jardinier
fisherman/fishermen=pêcheur policeman/policemen=policier prince=prince cook=cuisinier actor=acteur
guide=guide engineer=ingénieur worker=ouvrier painter=peintre poet=poète hero/heroes=héros mayor=maire
pharmacist=pharmacien librarian=bibliothécaire musician=musicien sailor=marin thief/thieves=voleur
tiger=tigre lion=lion wolf/wolves=loup rabbit=lapin bear=ours elephant=éléphant monkey=singe donkey=âne
rooster=coq duck=canard hedgehog=hérisson pig=cochon fox=renard snake=serpent dolphin=dauphin nephew=neveu
pilot=pilote tailor=tailleur carpenter=charpentier monk=moine wizard=sorcier giant=géant
"""
BEINGS_FEMININE = """
woman/women=femme girl=fille mother=mère sister=sœur queen=reine bride=mariée aunt=tante lady=dame
nurse=infirmière person/people=personne waitress=serveuse singer=chanteuse dancer=danseuse
grandmother=grand-mère/grands-mères princess=princesse actress=actrice cow=vache hen=poule mouse/mice=souris
witch=sorcière niece=nièce goat=chèvre bee=abeille dragonfly=libellule ant=fourmi turtle=tortue
frog=grenouille sheep/sheep=brebis spider=araignée whale=baleine giraffe=girafe goose/geese=oie fly=mouche
nun=religieuse victim=victime seller=vendeuse
"""
THINGS_MASCULINE = """
book=livre bread=pain mail=courrier coffee=café apartment=appartement glass=verre meal=repas
newspaper=journal wine=vin coat=manteau hat=chapeau knife/knives=couteau cheese=fromage cake=gâteau
pencil=crayon train=train boat=bateau gift=cadeau plane=avion tree=arbre movie=film word=mot novel=roman
telephone=téléphone computer=ordinateur bed=lit pen=stylo piano=piano tool=outil bag=sac ticket=billet
desk=bureau fish/fish=poisson egg=œuf mirror=miroir suit=costume notebook=cahier chocolate=chocolat
sugar=sucre salt=sel pepper=poivre fruit=fruit vegetable=légume rice=riz butter=beurre steak=steak
honey=miel lemon=citron melon=melon carpet=tapis curtain=rideau pillow=oreiller cupboard=placard
alarm=réveil bicycle=vélo truck=camion drum=tambour violin=violon painting=tableau poem=poème
dictionary=dictionnaire package=colis hammer=marteau nail=clou thread=fil basket=panier
scarf/scarves=foulard bean=haricot lobster=homard umbrella=parapluie treasure=trésor medicine=médicament
pebble=caillou/cailloux toy=jouet game=jeu portrait=portrait
"""
THINGS_FEMININE = """
house=maison car=voiture table=table key=clé door=porte apple=pomme chair=chaise flower=fleur
picture=image window=fenêtre watch=montre song=chanson story=histoire question=question answer=réponse
dress=robe shirt=chemise lamp=lampe meat=viande soup=soupe box=boîte cup=tasse bottle=bouteille
plate=assiette spoon=cuillère fork=fourchette idea=idée orange=orange machine=machine guitar=guitare
pear=poire strawberry=fraise cherry=cerise tomato/tomatoes=tomate carrot=carotte banana=banane
salad=salade shallot=échalote pie=tarte jam=confiture beer=bière water=eau rope=corde candle=bougie
skirt=jupe jacket=veste shoe=chaussure boot=botte tie=cravate card=carte poster=affiche coin=pièce
sign=pancarte ruler=règle sheet=feuille magazine=revue medal=médaille trumpet=trompette flute=flûte
doll=poupée ball=balle brush=brosse needle=aiguille wheel=roue ladder=échelle saw=scie axe=hache
scale=balance pan=poêle
"""
PLACES_MASCULINE = """
garden=jardin park=parc market=marché hospital=hôpital hotel=hôtel meadow=pré restaurant=restaurant
bridge=pont museum=musée castle=château village=village theater=théâtre wood=bois lake=lac river=fleuve
store=magasin field=champ wall=mur country=pays airport=aéroport road=chemin living_room=salon
corridor=couloir attic=grenier harbor=port stadium=stade cemetery=cimetière desert=désert sky=ciel
summit=sommet canal=canal workshop=atelier palace=palais
"""
PLACES_FEMININE = """
school=école street=rue city=ville church=église room=chambre station=gare library=bibliothèque
beach=plage mountain=montagne island=île square=place farm=ferme bakery=boulangerie pharmacy=pharmacie
bank=banque factory=usine university=université tower=tour cave=grotte sea=mer valley=vallée prison=prison
cellar=cave shop=boutique court=cour pool=piscine border=frontière kitchen=cuisine stage=scène
fountain=fontaine plain=plaine jungle=jungle
"""
ADJECTIVES_AFTER = """
red=rouge white=blanc/blanche black=noir happy=heureux sad=triste rich=riche poor=pauvre strong=fort
blue=bleu green=vert cold=froid hot=chaud clean=propre dirty=sale tired=fatigué difficult=difficile
easy=facile famous=célèbre dangerous=dangereux quiet=tranquille strange=étrange empty=vide full=plein
open=ouvert closed=fermé heavy=lourd light=léger expensive=cher useful=utile useless=inutile
modern=moderne old-fashioned=démodé curious=curieux jealous=jaloux lazy=paresseux serious=sérieux
generous=généreux brave=courageux proud=fier polite=poli honest=honnête intelligent=intelligent
stupid=stupide interesting=intéressant elegant=élégant delicious=délicieux sweet=sucré salty=salé
bitter=amer round=rond flat=plat deep=profond wide=large narrow=étroit soft=doux/douce hard=dur
solid=solide fragile=fragile free=gratuit yellow=jaune grey=gris pink=rose brown=brun
purple=violet/violette magic=magique wild=sauvage broken=cassé burnt=brûlé lost=perdu hidden=caché
dry=sec/sèche wet=mouillé weak=faible quick=rapide slow=lent calm=calme French=français English=anglais
Italian=italien Spanish=espagnol German=allemand Japanese=japonais Chinese=chinois loyal=loyal
normal=normal royal=royal active=actif creative=créatif naive=naïf perfect=parfait sick=malade
visible=visible possible=possible necessary=nécessaire silent=silencieux mysterious=mystérieux
precious=précieux tall=haut
"""
# French masculine/feminine/form before a masculine vowel (bel ami)
ADJECTIVES_BEFORE = """
small=petit/petite big=grand/grande old=vieux/vieille/vieil new=nouveau/nouvelle/nouvel
beautiful=beau/belle/bel good=bon/bonne young=jeune/jeune pretty=joli/jolie bad=mauvais/mauvaise
fat=gros/grosse long=long/longue
"""
TRANSITIVE = """
watch=regarder love=aimer find/found=trouver show=montrer carry=porter look_for/looked_for=chercher
use=utiliser forget/forgot=oublier keep/kept=garder leave/left=quitter prepare=préparer close=fermer
break/broke=casser hide/hid=cacher wash=laver touch=toucher steal/stole=voler bring/brought=apporter
share=partager draw/drew=dessiner visit=visiter borrow=emprunter lend/lent=prêter cut/cut=couper
push=pousser pull=tirer throw/threw=lancer change=changer select=sélectionner repair=réparer
admire=admirer hate=détester adore=adorer save=sauver order=commander taste=goûter copy=copier
print=imprimer record=enregistrer check=vérifier measure=mesurer compare=comparer mix=mélanger
correct=corriger tidy=ranger explain=expliquer imagine=imaginer ignore=ignorer decorate=décorer
import=importer deliver=livrer cross=traverser observe=observer examine=examiner judge=juger
criticize=critiquer burn=brûler light_up/lit_up=allumer catch/caught=attraper collect=collectionner
install=installer fold=plier attach=attacher hang/hung=accrocher replace=remplacer announce=annoncer
move=déplacer accept=accepter refuse=refuser avoid=éviter count=compter evoke=évoquer study=étudier
color=colorier preserve=préserver eat/ate=manger give/gave=donner
"""
INTRANSITIVE = """
talk=parler sing/sang=chanter work=travailler walk=marcher dance=danser play=jouer cry=pleurer
travel=voyager think/thought=penser dream=rêver swim/swam=nager shout=crier dine=dîner breathe=respirer
jump=sauter hesitate=hésiter win/won=gagner snore=ronfler whistle=siffler pray=prier camp=camper
fish=pêcher joke=plaisanter tremble=trembler shine/shone=briller float=flotter smoke=fumer argue=discuter
vote=voter skate=patiner ski=skier cheat=tricher yawn=bâiller chat/chatted=bavarder cough=tousser
meditate=méditer protest=protester
"""
ADVERBS = """
often=souvent well=bien together=ensemble always=toujours quickly=rapidement slowly=lentement here=ici
again=encore only=seulement there=là-bas early=tôt late=tard sometimes=parfois rarely=rarement
carefully=soigneusement easily=facilement immediately=immédiatement calmly=calmement everywhere=partout
outside=dehors inside=dedans secretly=secrètement probably=probablement perhaps=peut-être
certainly=certainement suddenly=soudain simply=simplement strangely=étrangement sadly=tristement
bravely=bravement
"""
TIMES = {
    "present": "now=maintenant today=aujourd'hui every_day=chaque_jour at_present=actuellement",
    "past": "yesterday=hier last_year=l'année_dernière long_ago=autrefois recently=récemment",
    "future": "tomorrow=demain soon=bientôt next_week=la_semaine_prochaine then=ensuite",
}


@dataclass(frozen=True)
class Noun:
    english: str
    english_plural: str
    french: str
    french_plural: str
    feminine: bool


@dataclass(frozen=True)
class Adjective:
    english: str
    masculine: str
    feminine: str
    before_noun: bool
    before_vowel: str  # the masculine singular before a vowel (bel, nouvel, vieil), "" if it is the usual form

    def agree(self, feminine: bool, plural: bool) -> str:
        """The French form for a noun of this gender and number."""
        form = self.feminine if feminine else self.masculine
        return french_plural(form) if plural else form


@dataclass(frozen=True)
class Verb:
    english: str
    third_person: str
    past: str
    french: str  # infinitive, a regular -er verb


def french_plural(word: str) -> str:
    """journal: journaux; château: châteaux; jeu: jeux; bras: bras; chat: chats; bleu: bleus."""
    if word[-1] in "sxz":
        return word
    if word.endswith("al"):
        return word[:-2] + "aux"
    return word + ("x" if re.search(r"(eau|eu)$", word) and word != "bleu" else "s")


def french_feminine(word: str) -> str:
    """rouge: rouge; heureux: heureuse; italien: italienne; léger: légère; actif: active; petit: petite."""
    if word.endswith("e"):
        return word
    for ending, feminine in (
        ("eux", "euse"),
        ("oux", "ouse"),
        ("ien", "ienne"),
        ("er", "ère"),
        ("if", "ive"),
        ("ïf", "ïve"),
    ):
        if word.endswith(ending):
            return word.removesuffix(ending) + feminine
    return word + "e"


def english_s(word: str) -> str:
    """The plural of a noun or the third person of a verb: cat, cats; box, boxes; city, cities; boy, boys."""
    if word.endswith(("s", "x", "ch", "sh", "z")):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"


def english_past(verb: str) -> str:
    """walk: walked; love: loved; cry: cried; play: played."""
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else verb + "ed"


def _pairs(text: str) -> list[tuple[list[str], list[str]]]:
    """ "man/men=homme" -> (["man", "men"], ["homme"])."""
    return [tuple(side.replace("_", " ").split("/") for side in entry.split("=")) for entry in text.split()]


def _first_word(rule, words: str) -> str:
    """Inflect the first word only: look for, looks for."""
    first, _, rest = words.partition(" ")
    return f"{rule(first)} {rest}".strip()


def _nouns(masculine: str, feminine: str) -> list[Noun]:
    """Both genders in one list, interleaved so that each has frequent and rare words."""
    entries = [
        (rank / (len(pairs)), is_feminine, english, french)
        for is_feminine, pairs in ((False, _pairs(masculine)), (True, _pairs(feminine)))
        for rank, (english, french) in enumerate(pairs)
    ]
    return [
        Noun(
            english[0],
            english[1] if english[1:] else english_s(english[0]),
            french[0],
            french[1] if french[1:] else french_plural(french[0]),
            is_feminine,
        )
        for _, is_feminine, english, french in sorted(entries)
    ]


def _adjectives(after: str, before: str) -> list[Adjective]:
    """Those before the noun are few and frequent: every third place at the head of the list is theirs."""
    ranked = [(rank, False, *pair) for rank, pair in enumerate(_pairs(after))]
    ranked += [(2 * rank, True, *pair) for rank, pair in enumerate(_pairs(before))]
    return [
        Adjective(
            english[0],
            french[0],
            french[1] if french[1:] else french_feminine(french[0]),
            is_before,
            french[2] if french[2:] else "",
        )
        for _, is_before, english, french in sorted(ranked)
    ]


def _verbs(text: str) -> list[Verb]:
    return [
        Verb(
            english[0],
            _first_word(english_s, english[0]),
            english[1] if english[1:] else english_past(english[0]),
            french[0],
        )
        for english, french in _pairs(text)
    ]


def _plain(text: str) -> list[tuple[str, str]]:
    return [(english[0], french[0]) for english, french in _pairs(text)]


@dataclass(frozen=True)
class Lexicon:
    """Every open class of words, each most frequent first."""

    beings: list[Noun]
    things: list[Noun]
    places: list[Noun]
    adjectives: list[Adjective]
    transitive: list[Verb]
    intransitive: list[Verb]
    adverbs: list[tuple[str, str]]
    times: dict[str, list[tuple[str, str]]]


LEXICON = Lexicon(
    beings=_nouns(BEINGS_MASCULINE, BEINGS_FEMININE),
    things=_nouns(THINGS_MASCULINE, THINGS_FEMININE),
    places=_nouns(PLACES_MASCULINE, PLACES_FEMININE),
    adjectives=_adjectives(ADJECTIVES_AFTER, ADJECTIVES_BEFORE),
    transitive=_verbs(TRANSITIVE),
    intransitive=_verbs(INTRANSITIVE),
    adverbs=_plain(ADVERBS),
    times={tense: _plain(text) for tense, text in TIMES.items()},
)
