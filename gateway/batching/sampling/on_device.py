"""Sampling on the device by runners that support it: the logits are then not copied to the host."""

from __future__ import annotations

import numpy as np

from backends.api import RowSampling, StepResult
from backends.errors import Fatal
from gateway.batching.sampling.nucleus import uniform
from gateway.batching.sampling.sample import NOT_FINITE, Sampled, is_greedy
from gateway.batching.scheduler import Chunk
from gateway.batching.sequence import Sequence


def row_sampling(chunks: list[Chunk]) -> RowSampling | None:
    """Sampling parameters for every chunk that samples; None if a sequence needs its logits on the host.

    Log-probabilities, penalties, a bias and prompt scores need them.
    """
    if any(_needs_logits(chunk.sequence) for chunk in chunks):
        return None
    sequences = [chunk.sequence for chunk in chunks if chunk.samples]
    wishes = [sequence.sampling for sequence in sequences]
    return RowSampling(
        temperature=np.array([0.0 if is_greedy(wish) else wish.temperature for wish in wishes], np.float32),
        min_p=np.array([wish.min_p for wish in wishes], np.float32),
        top_k=np.array([wish.top_k for wish in wishes], np.int32),
        top_p=np.array([wish.top_p for wish in wishes], np.float32),
        uniform=np.array([_uniform(sequence) for sequence in sequences], np.float64),
    )


def picked(result: StepResult, *, num_rows: int, vocab_size: int) -> list[Sampled]:
    """Tokens of a step with `sampling`. Raises `Fatal` if the runner broke the contract."""
    ids = result.token_ids
    if ids is None or ids.shape != (num_rows,) or (num_rows and int(ids.max()) >= vocab_size):
        raise Fatal(f"the runner was to pick {num_rows} tokens below {vocab_size} and returned {ids}")
    return [Sampled(token) if token >= 0 else Sampled(-1, error=NOT_FINITE) for token in ids.tolist()]


def _uniform(sequence: Sequence) -> float:
    """Uniform number for the token that this step picks, the last of those in flight."""
    return uniform(sequence.seed, sequence.num_generated + sequence.num_in_flight - 1)


def _needs_logits(sequence: Sequence) -> bool:
    return sequence.sampling.logprobs is not None or sequence.adjustments is not None or sequence.is_scoring
