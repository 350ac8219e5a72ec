"""A step's result on its way to the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backends.api import StepResult


class StepTicket:
    """Takes `result`, logits `[R, vocab]` or token ids `[R]`, to the host, without waiting on CUDA.

    The CPU has computed it already. On CUDA the copy into pinned memory follows what was enqueued so far, and an
    event tells when it is there.
    """

    def __init__(self, result: Tensor, *, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._event: torch.cuda.Event | None = None
        self._host: Tensor | None = result
        if result.device.type == "cuda":
            self._host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            self._host.copy_(result, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._event.record()

    @property
    def is_open(self) -> bool:
        """The result may still be taken."""
        return self._host is not None

    def cancel(self) -> None:
        self._host = None

    def take(self) -> StepResult:
        """Waits for the step; once, while `is_open`. Raises torch's error if the step failed on the device."""
        assert self._host is not None
        if self._event is not None:
            self._event.synchronize()
        array, self._host = self._host.numpy(), None
        if array.ndim == 1:
            return StepResult(np.empty((0, self._vocab_size), np.float32), array)
        return StepResult(array)
