"""The training corpus, written on the fly: an endless, seeded stream of short conversations."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from gateway.demo import phrasings
from gateway.demo.augment import augment
from gateway.demo.chatml import END_OF_TURN, Conversation, Exchange, Segment, dialogue
from gateway.demo.facts import Fact
from gateway.demo.unknown import made_up_country, off_topic, unknown_place

# Ends a model this small can learn; with every end from 1 to 30 it counted well but did not stop where asked.
COUNT_ENDS = (10, 20, 30)
BAG_SHARE = 0.35


class Corpus:
    """Draws conversations about `facts`; the same facts and seed give the same stream.

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
        """One to three exchanges joined, seldom up to twelve, so that long conversations are not a surprise."""
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
        """Asked in the same words as a real capital, so that only the name can tell."""
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
    """Whether the question is a held-out phrasing about that country, whatever its case, article and punctuation."""
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
