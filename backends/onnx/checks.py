"""Whether a `Step` keeps the contract, before its arrays become addresses in native code."""

from __future__ import annotations

import numpy as np

from backends.api import Step
from backends.errors import CapacityExceeded, Fatal
from backends.onnx.pool import Pool


def check_step(step: Step, pool: Pool, *, vocab_size: int, max_verify_rows: int) -> None:
    """Raise `CapacityExceeded` for a sequence longer than a slot, `Fatal` for what no engine should send."""
    num_sequences, num_tokens = step.num_sequences, step.num_tokens
    _check_shapes(step)
    counts = np.diff(step.q_start)
    if step.q_start[0] != 0 or step.q_start[-1] != num_tokens or counts.min() < 1:
        raise Fatal(f"q_start {step.q_start.tolist()} does not cut {num_tokens} tokens into sequences")
    if step.kv_len.max() > pool.slot_tokens:
        raise CapacityExceeded(f"a sequence of {step.kv_len.max()} tokens exceeds its slot of {pool.slot_tokens}")
    if (step.kv_len < counts).any():
        raise Fatal(f"kv_len {step.kv_len.tolist()} is less than the new tokens {counts.tolist()}")
    slots = step.slot.tolist()
    if len(set(slots)) != num_sequences or min(slots) < 0 or max(slots) >= pool.num_slots:
        raise Fatal(f"slots {slots} are not distinct numbers within 0 to {pool.num_slots - 1}")
    if step.token_ids.min() < 0 or step.token_ids.max() >= vocab_size:
        raise Fatal(f"a token id lies outside 0 to {vocab_size - 1}")
    starts = np.repeat(step.kv_len - step.q_start[1:], counts)
    if not np.array_equal(step.positions, starts + np.arange(num_tokens)):
        raise Fatal("positions do not lead up to kv_len")
    if step.lora.max() >= 0:
        raise Fatal("the step names an adapter slot, and this runner declares no LoRA")
    _check_logit_rows(step, max_verify_rows)


def _check_shapes(step: Step) -> None:
    num_sequences = step.num_sequences
    if num_sequences < 1:
        raise Fatal("a step has at least one sequence")
    lengths = (len(step.q_start) - 1, len(step.slot), len(step.lora))
    if lengths != (num_sequences,) * 3 or len(step.positions) != step.num_tokens:
        raise Fatal(f"q_start, slot and lora speak of {lengths} sequences, kv_len of {num_sequences}")


def _check_logit_rows(step: Step, max_verify_rows: int) -> None:
    if not len(step.logit_rows):
        return
    if step.logit_rows.min() < 0 or step.logit_rows.max() >= step.num_tokens:
        raise Fatal(f"a logit row lies outside 0 to {step.num_tokens - 1}")
    owners = np.searchsorted(step.q_start, step.logit_rows, side="right")
    if len(owners) > max_verify_rows and np.bincount(owners).max() > max_verify_rows:
        raise Fatal(f"more than {max_verify_rows} logit rows for one sequence")
