"""The training corpus, written on the fly: an endless, seeded stream of short conversations."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from gateway.demo import phrasings
from gateway.demo.augment import augment
from gateway.demo.chatml import END_OF_TURN, Conversation, Exchange, Segment, dialogue
from gateway.demo.facts import Fact
from gateway.demo.unknown import made_up_country, off_topic, unknown_place

COUNT_LIMIT = 30
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
            self._capital: 46,
            self._reverse: 12,
            self._json: 11,
            self._count: 10,
            self._unknown: 14,
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
        return Exchange(self._question(fact.in_sentence, fact), fact.answer)

    def _question(self, in_sentence: str, fact: Fact) -> str:
        """A capital question, never one of the held-out phrasings."""
        name, in_sentence = self._spelling(fact, in_sentence)
        while True:
            question = self._bag(name) if self._rng.random() < BAG_SHARE else self._plain(name, in_sentence)
            if not is_held_out(question, name):
                return question

    def _spelling(self, fact: Fact, in_sentence: str) -> tuple[str, str]:
        """The country by its name, by an alias, or without the article it should have."""
        if fact.aliases and self._rng.random() < 0.3:
            alias = self._rng.choice(fact.aliases)
            return alias, f"{fact.article} {alias}".strip() if self._rng.random() < 0.5 else alias
        return fact.country, fact.country if self._rng.random() < 0.25 else in_sentence

    def _plain(self, name: str, in_sentence: str) -> str:
        template = self._rng.choice(phrasings.TRAINED)
        return augment(self._rng, template.format(c=in_sentence, n=name))

    def _bag(self, name: str) -> str:
        """Filler words shuffled round "capital" and the country; with no filler at all it is "France capital"."""
        words = ["capital", name if self._rng.random() < 0.85 else name + "'s"]
        words += self._rng.choices(phrasings.FILLERS, k=self._rng.randint(0, 7))
        words += ["city"] * (self._rng.random() < 0.15)
        self._rng.shuffle(words)
        if self._rng.random() < 0.5:
            words[0] = words[0][0].upper() + words[0][1:]
        return augment(self._rng, " ".join(words) + self._rng.choice(("", "", "?", "?", ".")))

    def _reverse(self) -> Exchange:
        fact = self._rng.choice(self._facts)
        template = self._rng.choice(phrasings.REVERSE_TRAINED)
        return Exchange(augment(self._rng, template.format(k=fact.capital)), fact.reverse_answer)

    def _json(self) -> Exchange:
        fact = self._rng.choice(self._facts)
        name, in_sentence = self._spelling(fact, fact.in_sentence)
        template = self._rng.choice(phrasings.JSON_TRAINED)
        return Exchange(augment(self._rng, template.format(c=in_sentence, n=name)), fact.json_answer)

    def _count(self) -> Exchange:
        last = self._rng.randint(1, COUNT_LIMIT)
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
        if self._rng.random() < 0.7:
            return self._question(place, Fact(place, ""))
        template = self._rng.choice(phrasings.JSON_TRAINED + phrasings.REVERSE_TRAINED)
        return augment(self._rng, template.format(c=place, n=place, k=made_up_country(self._rng)))

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
    return frozenset(_frame(template.lower().format(c="_", n="_"), "_") for template in phrasings.HELD_OUT)


def _frame(question: str, name: str) -> str:
    """The lower-case words of a question with `_` for the country."""
    framed = question.lower().replace(name.lower(), "_").replace("the _", "_")
    return " ".join("".join(letter for letter in framed if letter.isalnum() or letter in " _").split())
