"""Whether a `Step` keeps the contract, before its arrays index memory."""

from __future__ import annotations

import numpy as np

from backends.api import Step
from backends.errors import CapacityExceeded, Fatal
from backends.torch.batch import flat_indices
from backends.torch.pool import Pool


def check_step(step: Step, pool: Pool, *, vocab_size: int, max_verify_rows: int) -> None:
    """Raise `CapacityExceeded` for a sequence beyond the planned context, `Fatal` for what no engine should send."""
    _check_shapes(step)
    _check_lengths(step, pool)
    if step.token_ids.min() < 0 or step.token_ids.max() >= vocab_size:
        raise Fatal(f"a token id lies outside 0 to {vocab_size - 1}")
    if step.lora.max() >= 0:
        raise Fatal("the step names an adapter slot, and this runner declares no LoRA")
    if pool.is_paged:
        _check_blocks(step, pool)
    else:
        _check_slots(step, pool)
    _check_logit_rows(step, max_verify_rows)


def _check_shapes(step: Step) -> None:
    num_sequences = step.num_sequences
    if num_sequences < 1:
        raise Fatal("a step has at least one sequence")
    lengths = (len(step.q_start) - 1, len(step.slot), len(step.lora))
    if lengths != (num_sequences,) * 3 or len(step.positions) != step.num_tokens:
        raise Fatal(f"q_start, slot and lora speak of {lengths} sequences, kv_len of {num_sequences}")


def _check_lengths(step: Step, pool: Pool) -> None:
    counts = np.diff(step.q_start)
    if step.q_start[0] != 0 or step.q_start[-1] != step.num_tokens or counts.min() < 1:
        raise Fatal(f"q_start {step.q_start.tolist()} does not cut {step.num_tokens} tokens into sequences")
    longest = int(step.kv_len.max())
    if longest > pool.max_context:
        raise CapacityExceeded(f"a sequence of {longest} tokens exceeds the planned context of {pool.max_context}")
    if (step.kv_len < counts).any():
        raise Fatal(f"kv_len {step.kv_len.tolist()} is less than the new tokens {counts.tolist()}")
    starts = np.repeat(step.kv_len - step.q_start[1:], counts)
    if not np.array_equal(step.positions, starts + np.arange(step.num_tokens)):
        raise Fatal("positions do not lead up to kv_len")


def _check_slots(step: Step, pool: Pool) -> None:
    slots = step.slot.tolist()
    if len(set(slots)) != len(slots) or min(slots) < 0 or max(slots) >= pool.num_blocks:
        raise Fatal(f"slots {slots} are not distinct numbers within 0 to {pool.num_blocks - 1}")


def _check_blocks(step: Step, pool: Pool) -> None:
    table, slot_map = step.block_table, step.slot_map
    if table is None or slot_map is None:
        raise Fatal("paged KV needs block_table and slot_map")
    used = -(-step.kv_len // pool.block_tokens)
    if table.ndim != 2 or len(table) != step.num_sequences or table.shape[1] < used.max():
        raise Fatal(f"block_table {table.shape} does not hold {used.tolist()} blocks of {pool.block_tokens} tokens")
    numbers = table[np.arange(table.shape[1]) < used[:, None]]
    if numbers.min() < 0 or numbers.max() >= pool.num_blocks:
        raise Fatal(f"a block lies outside 0 to {pool.num_blocks - 1}")
    if not np.array_equal(slot_map, flat_indices(step, pool)):
        raise Fatal("slot_map is not where block_table and positions put the new tokens")
    if len(np.unique(slot_map)) != len(slot_map):
        raise Fatal("two sequences write to the same place")


def _check_logit_rows(step: Step, max_verify_rows: int) -> None:
    if not len(step.logit_rows):
        return
    if step.logit_rows.min() < 0 or step.logit_rows.max() >= step.num_tokens:
        raise Fatal(f"a logit row lies outside 0 to {step.num_tokens - 1}")
    owners = np.searchsorted(step.q_start, step.logit_rows, side="right")
    if np.bincount(owners).max() > max_verify_rows:
        raise Fatal(f"more than {max_verify_rows} logit rows for one sequence")
