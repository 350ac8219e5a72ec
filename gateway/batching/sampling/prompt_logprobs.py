"""Log-probabilities from rows of raw logits, for sampled tokens and for prompts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gateway.batching.messages import Logprob
from gateway.batching.sampling.nucleus import largest
from gateway.batching.scheduler import Chunk
from gateway.batching.sequence import Sequence
from gateway.batching.step import rows_of


def logprob_of(logits: npt.NDArray[np.float32], peak: float, token_id: int, *, num_top: int) -> Logprob:
    """Log-probability of a token, `num_top` alternatives best first. `logits`: [vocab], finite, maximum `peak`."""
    log_total = peak + float(np.log(np.exp(logits - np.float32(peak)).sum(dtype=np.float64)))
    chosen = float(logits[token_id]) - log_total
    if num_top == 0:
        return Logprob(chosen)
    ids = largest(logits, min(num_top, len(logits)))
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    top = tuple(zip(ids.tolist(), (logits[ids].astype(np.float64) - log_total).tolist(), strict=True))
    return Logprob(chosen, top)


F32 = npt.NDArray[np.float32]

NOT_FINITE = Logprob(math.nan)
"""Marks a row of logits that could not be used; the sequence then ends in an error."""


def take_scores(chunks: list[Chunk], logits: F32) -> F32:
    """Give each scoring sequence its rows; returns the remaining rows, one for each chunk that samples.

    `logits` are of a step that `assemble` made of the chunks: float32 `[rows, vocab]`.
    """
    if not any(chunk.scored for chunk in chunks):
        return logits
    left: list[int] = []
    row = 0
    for chunk in chunks:
        scored = chunk.scored
        end = row + len(rows_of(chunk))
        chunk.sequence.prompt_scores += [
            _score(logits[row + place], chunk.sequence, position + 1) for place, position in enumerate(scored)
        ]
        left += range(row + len(scored), end)
        row = end
    return logits[left]


def _score(row: F32, sequence: Sequence, position: int) -> Logprob:
    assert sequence.prompt_logprobs is not None
    peak = float(row.max())
    if not math.isfinite(peak):
        return NOT_FINITE
    return logprob_of(row, peak, sequence.token_ids[position], num_top=sequence.prompt_logprobs)
