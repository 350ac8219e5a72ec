"""Executor of a model's steps on a device, and the transfer of a step's result to the host."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from backends.api import Step, StepResult


class DeviceResult:
    """Copies `result`, logits `[R, vocab]` or token ids `[R]`, to the host, without waiting on CUDA.

    The CPU has computed it already. On CUDA the copy into pinned memory follows the work enqueued so far, and an
    event signals its end.
    """

    def __init__(self, result: Tensor, *, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._event: torch.cuda.Event | None = None
        self._host = result
        if result.device.type == "cuda":
            self._host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            self._host.copy_(result, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._event.record()

    def take(self) -> StepResult:
        """Wait for the step. Raises torch's error if it failed on the device."""
        if self._event is not None:
            self._event.synchronize()
        array = self._host.numpy()
        if array.ndim == 1:
            return StepResult(np.empty((0, self._vocab_size), np.float32), array)
        return StepResult(array)


class Executor(Protocol):
    """Owns the KV memory of one plan. Called under `torch.inference_mode`, with steps that `check_step` let pass."""

    def run(self, step: Step, picked: Tensor | None = None) -> Tensor:
        """Logits float32 `[R, vocab]` on the device, perhaps still being computed; valid until the next `run`.

        The token id -1 - r stands for `picked[r]`, int64 on the device, or for any valid id where that is negative.
        Sampling is the caller's business, and the step names no adapter.
        """
        ...

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        """Copy a block or slot, or its first tokens, in all layers, after all steps so far and before the next."""
        ...

    def warmup(self, max_sequences: int) -> None:
        """Make ready what steps of up to `max_sequences` sequences need; may write to block or slot 0."""
        ...
