"""Adjusts a sequence's logits before a token is drawn: penalties, then bias."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from backends.generation import Sampling

F32 = npt.NDArray[np.float32]

BAN = -100.0
"""A bias of -100 or less excludes the token (OpenAI API reference, `logit_bias`)."""


def are_needed(sampling: Sampling) -> bool:
    """True if sampling changes the model's logits. Most requests do not, and keep the fast path."""
    return bool(
        sampling.logit_bias
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )


class Adjustments:
    """Counts of one sequence's tokens, dense over the vocabulary, and its bias.

    The repetition penalty (CTRL, arXiv:1909.05858) sees prompt and output: positive logits are divided by it,
    negative ones multiplied. Presence and frequency penalties (OpenAI) see the output only. Bias comes last, so that
    nothing lifts a ban.
    """

    def __init__(self, sampling: Sampling, *, prompt: Iterable[int], vocab_size: int) -> None:
        self._sampling = sampling
        self._seen = np.zeros(vocab_size, dtype=np.bool_)
        self._seen[np.fromiter(prompt, dtype=np.int64)] = True
        self._output_counts = np.zeros(vocab_size, dtype=np.float32)
        bias = sampling.logit_bias
        self._bias_ids = np.fromiter(bias.keys(), dtype=np.int64, count=len(bias))
        values = np.fromiter(bias.values(), dtype=np.float32, count=len(bias))
        self._bias = np.where(values <= BAN, np.float32(-np.inf), values)

    def count(self, token_id: int) -> None:
        """Count a generated token."""
        self._seen[token_id] = True
        self._output_counts[token_id] += 1.0

    def apply(self, logits: F32) -> F32:
        """Adjusted copy of a row of logits, -inf where banned. `logits`: [vocab], not modified."""
        sampling = self._sampling
        row = logits.copy()
        if sampling.repetition_penalty != 1.0:
            self._discourage_repetition(row)
        if sampling.frequency_penalty != 0.0:
            row -= np.float32(sampling.frequency_penalty) * self._output_counts
        if sampling.presence_penalty != 0.0:
            row -= np.float32(sampling.presence_penalty) * (self._output_counts > 0.0)
        row[self._bias_ids] += self._bias
        return row

    def _discourage_repetition(self, row: F32) -> None:
        penalty = np.float32(self._sampling.repetition_penalty)
        ids = np.flatnonzero(self._seen)
        seen = row[ids]
        row[ids] = np.where(seen > 0.0, seen / penalty, seen * penalty)
