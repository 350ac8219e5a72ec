"""Perplexity of a text under a served model, from the log-probabilities that `/v1/completions` returns for a prompt."""

from __future__ import annotations

import math

import msgspec

from gateway.bench.load import BenchFailed, Target, complete, new_session

_PIECE_CHARACTERS = 800
"""Texts are scored piece by piece, each from an empty context; small pieces fit every model."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens` were predicted; `nats` is their mean negative log-probability."""

    tokens: int
    nats: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats)


async def score(target: Target, text: str) -> Score:
    """Raises `BenchFailed`, also for a text of which nothing can be predicted."""
    total, count = 0.0, 0
    async with new_session() as session:
        for start in range(0, len(text), _PIECE_CHARACTERS):
            body: dict[str, object] = {"prompt": text[start : start + _PIECE_CHARACTERS]}
            answer = await complete(session, target, body | {"max_tokens": 0, "echo": True, "logprobs": 0})
            logprobs = answer["choices"][0]["logprobs"]["token_logprobs"][1:]
            total -= sum(logprobs)
            count += len(logprobs)
    if count == 0:
        raise BenchFailed("the text is too short: the first token of a piece cannot be predicted")
    return Score(tokens=count, nats=total / count)
