"""Questions to be answered with "I do not know.": invented countries, famous non-countries, other topics."""

import random
from collections.abc import Sequence
from functools import cache

from gateway.demo.facts import Fact, load_facts
from gateway.demo.words import names, words

NOT_COUNTRIES = names(
    """
    Atlantis, Narnia, Wakanda, Gondor, Mordor, Westeros, Ruritania, Freedonia, Elbonia, Genovia, Zamunda, Latveria,
    Utopia, Asgard, El Dorado, Lilliput, Oz, Neverland, Wonderland, Middle-earth, Mars, the Moon, Jupiter, Venus,
    Europe, Asia, Africa, Antarctica, South America, Oceania, California, Texas, Bavaria, Catalonia, Sicily, Tuscany,
    Ontario, Quebec, Queensland, Siberia, Yorkshire, Normandy, Crete, Corsica, Tibet, Kashmir, Greenland, Puerto Rico,
    Hawaii, Alaska, Florida, Prussia, Yugoslavia, Babylon, Carthage, Mesopotamia, Byzantium, Gaul, Persia, Sparta,
    the internet, my kitchen, a banana, the sea, Google, Python, Linux, football, music, heaven, nowhere
    """
)
NOT_COUNTRIES_HELD_OUT = names(
    """
    Shangri-La, Hyrule, Tamriel, Sokovia, Eldia, Panem, Brobdingnag, Cimmeria, Saturn, Tasmania, Transylvania,
    Patagonia, Nevada, Manitoba, Saxony, Sardinia, Zanzibar, Avalon, Camelot, Krypton
    """
)

# {t} any noun, {c} any country: knowing the country is no reason to answer.
OFF_TOPIC = (
    "What is the population of {c}?", "What is the currency of {c}?", "What language is spoken in {c}?",
    "Who is the president of {c}?", "How big is {c}?", "What is the flag of {c}?", "What do people eat in {c}?",
    "What is the weather in {c}?", "How old is {c}?", "Who is the king of {c}?", "What is the highest mountain of {c}?",
    "What is the longest river in {c}?", "Tell me the history of {c}.", "How far is {c} from here?",
    "What is {t}?", "Who invented the {t}?", "Tell me about the {t}.", "How do I repair a {t}?",
    "Write a poem about a {t}.",
    "What is the price of a {t}?", "Where can I buy a {t}?", "Why is the {t} so big?", "Explain how a {t} works.",
    "Do you like my {t}?", "What is the colour of a {t}?", "Who wrote the book about the {t}?",
    "Sing a song about a {t}.",
    "Translate {t} into French.", "How many {t}s are there?", "Is a {t} heavy?",
    "What is {x} plus {y}?", "What is {x} times {y}?", "{x} + {y}", "What day is it?", "What time is it?",
    "What is the meaning of life?", "Tell me a joke.", "Tell me a story.", "Who won the game?", "What is love?",
    "Write some code.", "How do I cook rice?", "What is the speed of light?", "Who wrote Hamlet?", "Is it raining?",
)  # fmt: skip
OFF_TOPIC_HELD_OUT = (
    "What is the national anthem of {c}?", "When was {c} founded?", "Who painted the {t}?", "How long is a {t}?",
    "What is {x} minus {y}?", "Will it snow tomorrow?", "Recommend a good film.", "Who discovered the {t}?",
)  # fmt: skip
NOUNS = words(
    """
    car tree computer piano river horse table window engine guitar bicycle camera teacher doctor garden castle bridge
    ocean rocket planet kitchen carpet dragon mirror pencil market village forest bottle blanket clock lamp spoon
    elephant tiger rabbit penguin tomato lemon cheese bread hammer ladder pillow basket candle button pocket
    """
)

_SYLLABLES = words(
    """
    ba be bo bri cal dor dra el fa fen gar gor gra hal hul ja jor kal kel kra la lun mar mel mor na nor ol pel pra qua
    ra rin ro sha sil sor ta tel thu tor ul va vel vor wen wy xan yor za zel zor
    """
)
_ENDINGS = ("ia", "land", "istan", "onia", "ania", "or", "a", "ville", "eth", "ica", "ara", "um", "ova", "is", "ium")


def made_up_country(rng: random.Random) -> str:
    """A name no country has, half from syllables, half cut together from two real names."""
    while True:
        name = _from_syllables(rng) if rng.random() < 0.5 else _from_real_names(rng)
        if 4 <= len(name) <= 18 and _is_far_from_real_names(name):
            return name


def unknown_place(rng: random.Random) -> str:
    return rng.choice(NOT_COUNTRIES) if rng.random() < 0.3 else made_up_country(rng)


def off_topic(rng: random.Random, facts: Sequence[Fact], templates: Sequence[str] = OFF_TOPIC) -> str:
    return rng.choice(templates).format(
        c=rng.choice(facts).in_sentence, t=rng.choice(NOUNS), x=rng.randint(0, 99), y=rng.randint(0, 99)
    )


def _from_syllables(rng: random.Random) -> str:
    stem = "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((1, 2, 2, 3))))
    return (stem + rng.choice(_ENDINGS)).capitalize()


def _from_real_names(rng: random.Random) -> str:
    first, second = (rng.choice(_single_words()) for _ in range(2))
    head = first[: rng.randint(2, max(2, len(first) - 2))]
    tail = second[rng.randint(1, max(1, len(second) - 2)) :]
    return (head + tail).capitalize()


@cache
def _single_words() -> tuple[str, ...]:
    return tuple(fact.country for fact in load_facts() if " " not in fact.country)


def _is_far_from_real_names(name: str) -> bool:
    """A typo in a real name must stay answerable, so invented names keep more than two edits away.

    Two words within two edits of each other always share a remainder after two letters are dropped from each.
    """
    return _remainders(name.lower()).isdisjoint(_real_remainders())


@cache
def _real_remainders() -> frozenset[str]:
    facts = load_facts()
    real = [name for fact in facts for name in (fact.country, fact.capital, *fact.aliases)]
    real += NOT_COUNTRIES_HELD_OUT
    return frozenset(remainder for name in real for remainder in _remainders(name.lower()))


def _remainders(word: str) -> set[str]:
    """What is left of a word without up to two of its letters."""
    one_less = {word[:i] + word[i + 1 :] for i in range(len(word))}
    return {word} | one_less | {rest[:i] + rest[i + 1 :] for rest in one_less for i in range(len(rest))}
