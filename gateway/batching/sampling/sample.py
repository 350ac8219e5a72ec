"""Samples one token per sequence from logits. Greedy rows cost one argmax over the batch."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from backends.generation import Sampling
from gateway.batching.messages import Failure, Logprob
from gateway.batching.sampling.nucleus import draw, uniform
from gateway.batching.sampling.prompt_logprobs import logprob_of
from gateway.batching.sequence import Sequence

F32 = npt.NDArray[np.float32]

_GREEDY_BELOW = 1e-5
"""Temperatures below this cannot be distinguished from greedy in float32."""
NOT_FINITE = Failure("engine_failed", "non-finite logits")
_ALL_BANNED = Failure("engine_failed", "logit_bias leaves no token")


class Sampled(msgspec.Struct, frozen=True):
    """A token, or the error that ends its sequence."""

    token_id: int
    logprob: Logprob | None = None
    error: Failure | None = None


def is_greedy(sampling: Sampling) -> bool:
    return sampling.temperature < _GREEDY_BELOW or sampling.top_k == 1


def sample(logits: F32, sequences: list[Sequence]) -> list[Sampled]:
    """One token or error per sequence. `logits`: [rows, vocab], one row a sequence. Rows are independent."""
    best = logits.argmax(axis=1)
    # argmax stops at a NaN and finds +inf, so checking the winner detects any row that must not be used.
    peaks = logits[np.arange(len(logits)), best]
    rows = zip(logits, best.tolist(), peaks.tolist(), sequences, strict=True)
    return [_sample_row(row, token_id, peak, sequence) for row, token_id, peak, sequence in rows]


def _sample_row(row: F32, best: int, peak: float, sequence: Sequence) -> Sampled:
    if not math.isfinite(peak):
        return Sampled(-1, error=NOT_FINITE)
    token_id = _choose(row, best, peak, sequence)
    if token_id is None:
        return Sampled(-1, error=_ALL_BANNED)
    num_top = sequence.sampling.logprobs
    if num_top is None:
        return Sampled(token_id)
    return Sampled(token_id, logprob_of(row, peak, token_id, num_top=num_top))


def _choose(row: F32, best: int, peak: float, sequence: Sequence) -> int | None:
    if sequence.adjustments is not None:
        row = sequence.adjustments.apply(row)
        best = int(row.argmax())
        peak = float(row[best])
        if not math.isfinite(peak):
            return None
    if is_greedy(sequence.sampling):
        return best
    return draw(row, peak, sequence.sampling, uniform=uniform(sequence.seed, sequence.num_generated))
