import random
from collections.abc import Iterable
from itertools import islice

import pytest

from tools.demo_model import phrasings
from tools.demo_model.corpus import (
    NOT_COUNTRIES,
    NOT_COUNTRIES_HELD_OUT,
    OFF_TOPIC,
    OFF_TOPIC_HELD_OUT,
    Corpus,
    count_answer,
    is_held_out,
    made_up_country,
)
from tools.demo_model.facts import load_facts
from tools.demo_model.phrasings import typo
from tools.demo_model.score import ask
from tools.demo_model.tokenizer import Conversation


def draw(seed: int, number: int) -> list[Conversation]:
    return list(islice(Corpus(load_facts(), seed).conversations(), number))


def questions(conversations: Iterable[Conversation]) -> list[str]:
    """User turns, in whatever case and punctuation the corpus gave them."""
    segments = [segment for conversation in conversations for segment in conversation]
    return [s.text.split("user\n")[1].split("<|im_end|>")[0] for s in segments if "user\n" in s.text]


def test_same_seed_gives_the_same_corpus() -> None:
    assert draw(seed=7, number=300) == draw(seed=7, number=300)


def test_another_seed_gives_another_corpus() -> None:
    assert draw(seed=7, number=20) != draw(seed=8, number=20)


def test_trained_and_held_out_lists_share_nothing() -> None:
    """A held-out score would mean nothing otherwise; case and punctuation do not make a phrasing new."""
    frames = [template.lower().rstrip("?.") for template in phrasings.TRAINED]

    assert len(phrasings.TRAINED) >= 24
    assert len(phrasings.HELD_OUT) == 10
    assert not any(template.lower().rstrip("?.") in frames for template in phrasings.HELD_OUT)
    assert set(phrasings.JSON_TRAINED).isdisjoint(phrasings.JSON_HELD_OUT)
    assert set(phrasings.REVERSE_TRAINED).isdisjoint(phrasings.REVERSE_HELD_OUT)
    assert set(OFF_TOPIC).isdisjoint(OFF_TOPIC_HELD_OUT)
    assert set(NOT_COUNTRIES).isdisjoint(NOT_COUNTRIES_HELD_OUT)


def test_corpus_never_asks_a_held_out_question() -> None:
    """The corpus never contains a held-out question, not even by a lucky shuffle of filler words."""
    held_out = {ask(template, fact).lower() for template in phrasings.HELD_OUT for fact in load_facts()}

    asked = {question.lower() for question in questions(draw(seed=11, number=4000))}

    assert asked.isdisjoint(held_out)


@pytest.mark.parametrize("question", ["DO YOU KNOW THE CAPITAL OF BAHAMAS", "do you know the capital of the Bahamas?!"])
def test_held_out_question_is_recognized_in_any_spelling(question: str) -> None:
    assert is_held_out(question, "Bahamas")


def test_trained_question_is_not_taken_for_held_out() -> None:
    assert not is_held_out("What is the capital of the Bahamas?", "Bahamas")


def test_focus_takes_half_of_the_exchanges() -> None:
    france = next(fact for fact in load_facts() if fact.country == "France")
    corpus = Corpus(load_facts(), 3, focus=france)

    answers = [corpus.exchange().answer for _ in range(400)]

    assert 0.4 < sum(answer == france.answer for answer in answers) / 400 < 0.6


def test_invented_country_is_no_real_one() -> None:
    rng = random.Random(5)
    real = {fact.country.lower() for fact in load_facts()}

    invented = [made_up_country(rng).lower() for _ in range(200)]

    assert real.isdisjoint(invented)


def test_typo_never_turns_one_country_into_another() -> None:
    """Iran must not become Iraq; a lost or swapped letter cannot do that."""
    names = {fact.country for fact in load_facts()}
    rng = random.Random(6)

    damaged = {(name, typo(rng, name)) for name in names for _ in range(50)}

    assert not [(name, wrong) for name, wrong in damaged if wrong != name and wrong in names]


def test_count_ends_at_its_number() -> None:
    assert count_answer(3) == "1, 2, 3."
