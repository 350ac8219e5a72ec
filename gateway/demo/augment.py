"""Small damage done to questions, so that the model answers people and not templates."""

import random

from gateway.demo.phrasings import GREETINGS_AROUND, THANKS_AROUND

DROP_PUNCTUATION = 0.25
UPPER_CASE = 0.15
LOWER_CASE = 0.20
SURROUND = 0.16
TYPO = 0.08


def augment(rng: random.Random, question: str) -> str:
    """The question as somebody in a hurry, shouting or polite would type it."""
    if rng.random() < TYPO:
        question = typo(rng, question)
    if rng.random() < DROP_PUNCTUATION:
        question = question.rstrip("?.!")
    if rng.random() < SURROUND:
        question = _surround(rng, question)
    return _change_case(rng, question)


def typo(rng: random.Random, text: str) -> str:
    """One letter lost, doubled or swapped with the next; never replaced, which could turn Iran into Iraq."""
    places = [i for i in range(len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    damaged = rng.choice((text[i + 1], text[i] * 2 + text[i + 1], text[i + 1] + text[i]))
    return text[:i] + damaged + text[i + 2 :]


def _surround(rng: random.Random, question: str) -> str:
    if rng.random() < 0.6:
        return rng.choice(GREETINGS_AROUND) + question
    return question + rng.choice(THANKS_AROUND)


def _change_case(rng: random.Random, text: str) -> str:
    draw = rng.random()
    if draw < UPPER_CASE:
        return text.upper()
    return text.lower() if draw < UPPER_CASE + LOWER_CASE else text
