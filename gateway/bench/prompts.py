"""Prompts of a wanted number of tokens, all different, for servers whose tokenizers we do not know."""

from __future__ import annotations

import random

import aiohttp

from gateway.bench.load import BenchFailed, Target, complete

_TEXT = (
    "the quick import of a class method returns self and then yields value from each list item while reading data in "
    "this module for testing error path with open file as stream not none or default key"
)
_WORDS = _TEXT.split()
_SHORT, _LONG = 20, 120


class PromptMaker:
    """Makes prompts of about `tokens` tokens. No two share a beginning, so that no prefix cache helps."""

    def __init__(self, words_per_token: float, *, extra_tokens: int) -> None:
        self._words_per_token = words_per_token
        self._extra_tokens = extra_tokens
        self._random = random.Random()  # noqa: S311 - prompts need no secrets

    def prompt(self, tokens: int) -> str:
        count = max(1, round((tokens - self._extra_tokens) * self._words_per_token))
        words: list[str] = []
        while len(words) < count:  # each word as often as any other, so that lengths differ little
            words += self._random.sample(_WORDS, k=len(_WORDS))
        return " ".join(words[:count])


async def measured_maker(session: aiohttp.ClientSession, target: Target) -> PromptMaker:
    """Ask the server how many tokens two texts have. Raises `BenchFailed`."""
    counts = {}
    maker = PromptMaker(1.0, extra_tokens=0)
    for words in (_SHORT, _LONG):
        answer = await complete(session, target, {"prompt": maker.prompt(words), "max_tokens": 1, "temperature": 0})
        counts[words] = int(answer["usage"]["prompt_tokens"])
    if counts[_LONG] <= counts[_SHORT]:
        raise BenchFailed(f"{target.label}: its usage.prompt_tokens does not grow with the prompt")
    words_per_token = (_LONG - _SHORT) / (counts[_LONG] - counts[_SHORT])
    return PromptMaker(words_per_token, extra_tokens=max(0, round(counts[_SHORT] - _SHORT / words_per_token)))
