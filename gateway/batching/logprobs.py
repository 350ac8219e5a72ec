"""Log-probabilities from a row of raw logits: before temperature, penalties and bias."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.batching.nucleus import largest
from gateway.engine.messages import Logprob


def logprob_of(logits: npt.NDArray[np.float32], peak: float, token_id: int, *, num_top: int) -> Logprob:
    """`logits`: [vocab], finite, with maximum `peak`. The `num_top` best alternatives come best first."""
    log_total = peak + float(np.log(np.exp(logits - np.float32(peak)).sum(dtype=np.float64)))
    chosen = float(logits[token_id]) - log_total
    if num_top == 0:
        return Logprob(chosen)
    ids = largest(logits, min(num_top, len(logits)))
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    top = tuple(zip(ids.tolist(), (logits[ids].astype(np.float64) - log_total).tolist(), strict=True))
    return Logprob(chosen, top)
