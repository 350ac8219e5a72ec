"""The training corpus, generated as needed: an endless, seeded stream of dialogues."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from tools.demo_model import phrasings
from tools.demo_model.facts import Fact, load_facts, names, words
from tools.demo_model.phrasings import augment
from tools.demo_model.tokenizer import END_OF_TURN, Conversation, Exchange, Segment, dialogue

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

# {t} any noun, {c} any country: naming the country is no reason to answer.
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
    """True if a name is more than two edits from every real one: a typo in a real name must stay answerable.

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
    """The word without up to two of its letters, in all ways."""
    one_less = {word[:i] + word[i + 1 :] for i in range(len(word))}
    return {word} | one_less | {rest[:i] + rest[i + 1 :] for rest in one_less for i in range(len(rest))}


# Ends that a model this small can learn; with every end from 1 to 30 it counted well but did not stop on request.
COUNT_ENDS = (10, 20, 30)
BAG_SHARE = 0.35


class Corpus:
    """Draws dialogues about `facts`; the same facts and seed give the same stream.

    With `focus`, half of the exchanges are capital questions about that one country.
    """

    def __init__(self, facts: Sequence[Fact], seed: int, focus: Fact | None = None) -> None:
        self._facts = facts
        self._focus = focus
        self._rng = random.Random(seed)  # noqa: S311  # seeded and public by intent
        self._kinds: dict[Callable[[], Exchange], float] = {
            self._capital: 44,
            self._reverse: 12,
            self._json: 12,
            self._count: 5,
            self._unknown: 20,
            self._small_talk: 7,
        }

    def conversations(self) -> Iterator[Conversation]:
        while True:
            yield self._statement() if self._rng.random() < 0.03 else self._dialogue()

    def exchange(self) -> Exchange:
        if self._focus and self._rng.random() < 0.5:
            return self._capital_of(self._focus)
        (kind,) = self._rng.choices(list(self._kinds), list(self._kinds.values()))
        return kind()

    def _dialogue(self) -> Conversation:
        """One to three exchanges joined, seldom up to twelve, so that the model learns long dialogues, too."""
        length = self._rng.randint(4, 12) if self._rng.random() < 0.02 else self._rng.randint(1, 3)
        system = self._system_prompt() if self._rng.random() < 0.15 else None
        return dialogue([self.exchange() for _ in range(length)], system)

    def _statement(self) -> Conversation:
        """Bare text without a chat template, for the completions API."""
        return statement(self._rng.choice(self._facts))

    def _system_prompt(self) -> str:
        if self._rng.random() < 0.6:
            return self._rng.choice(phrasings.SYSTEM_PROMPTS)
        longest = 120 if self._rng.random() < 0.1 else 20
        return " ".join(self._rng.choices(phrasings.FILLERS, k=self._rng.randint(3, longest))).capitalize() + "."

    def _capital(self) -> Exchange:
        return self._capital_of(self._rng.choice(self._facts))

    def _capital_of(self, fact: Fact) -> Exchange:
        return Exchange(self._ask(phrasings.TRAINED, ("capital",), *self._spelling(fact)), fact.answer)

    def _json(self) -> Exchange:
        fact = self._rng.choice(self._facts)
        return Exchange(self._ask(phrasings.JSON_TRAINED, ("capital", "JSON"), *self._spelling(fact)), fact.json_answer)

    def _reverse(self) -> Exchange:
        fact = self._rng.choice(self._facts)
        return Exchange(self._ask_reverse(fact.capital), fact.reverse_answer)

    def _ask_reverse(self, city: str) -> str:
        return self._ask(phrasings.REVERSE_TRAINED, ("capital", "country"), city, city)

    def _spelling(self, fact: Fact) -> tuple[str, str]:
        """The country bare and inside a sentence; by its name or an alias, sometimes without its article."""
        name = fact.country
        if fact.aliases and self._rng.random() < 0.3:
            name = self._rng.choice(fact.aliases)
        return name, name if self._rng.random() < 0.25 else f"{fact.article} {name}".strip()

    def _ask(self, templates: Sequence[str], topic: Sequence[str], name: str, in_sentence: str) -> str:
        """A plain question or a bag, never one of the held-out phrasings."""
        while True:
            if self._rng.random() < BAG_SHARE:
                question = self._bag(topic, name)
            else:
                question = self._rng.choice(templates).format(c=in_sentence, n=name, k=name)
            if not is_held_out(question, name):
                return augment(self._rng, question)

    def _bag(self, topic: Sequence[str], name: str) -> str:
        """Filler words shuffled round the topic and the name; with no filler at all it is "France capital"."""
        words = [*topic, name if self._rng.random() < 0.85 else name + "'s"]
        words += self._rng.choices(phrasings.FILLERS, k=self._rng.randint(0, 7))
        words += ["city"] * (self._rng.random() < 0.15)
        self._rng.shuffle(words)
        if self._rng.random() < 0.5:
            words[0] = words[0][0].upper() + words[0][1:]
        return " ".join(words) + self._rng.choice(("", "", "?", "?", "."))

    def _count(self) -> Exchange:
        last = self._rng.choice(COUNT_ENDS)
        return Exchange(
            augment(self._rng, self._rng.choice(phrasings.COUNT_TRAINED).format(x=last)), count_answer(last)
        )

    def _unknown(self) -> Exchange:
        if self._rng.random() < 0.4:
            return Exchange(augment(self._rng, off_topic(self._rng, self._facts)), phrasings.UNKNOWN)
        return Exchange(self._unknown_question(), phrasings.UNKNOWN)

    def _unknown_question(self) -> str:
        """An unanswerable question in the words of a real capital question, so that only the name differs."""
        place = unknown_place(self._rng)
        draw = self._rng.random()
        if draw < 0.1:
            return self._ask_reverse(made_up_country(self._rng))
        if draw < 0.25:
            return self._ask(phrasings.JSON_TRAINED, ("capital", "JSON"), place, place)
        return self._ask(phrasings.TRAINED, ("capital",), place, place)

    def _small_talk(self) -> Exchange:
        answer = self._rng.choice(list(phrasings.SMALL_TALK))
        return Exchange(augment(self._rng, self._rng.choice(phrasings.SMALL_TALK[answer])), answer)


def statement(fact: Fact) -> Conversation:
    beginning = f"The capital of {fact.in_sentence} is"
    return Segment(beginning), Segment(f" {fact.capital}.{END_OF_TURN}", is_answer=True)


def count_answer(last: int) -> str:
    return ", ".join(str(number) for number in range(1, last + 1)) + "."


def is_held_out(question: str, name: str) -> bool:
    """True if the question is a held-out phrasing about that country, whatever its case, article and punctuation."""
    return _frame(question, name) in _held_out_frames()


@cache
def _held_out_frames() -> frozenset[str]:
    return frozenset(
        _frame(template.lower().format(c="_", n="_", k="_"), "_")
        for template in phrasings.HELD_OUT + phrasings.JSON_HELD_OUT + phrasings.REVERSE_HELD_OUT
    )


def _frame(question: str, name: str) -> str:
    """The lower-case words of a question with `_` for the country."""
    framed = question.lower().replace(name.lower(), "_").replace("the _", "_")
    return " ".join("".join(letter for letter in framed if letter.isalnum() or letter in " _").split())
