"""Checks of a `Step` before its arrays become addresses, what is derived from them, and steps that probe a runner."""

from __future__ import annotations

import numpy as np

from backends.api import I32, KVPlan, RunnerCapabilities, Step
from backends.errors import CapacityExceeded, Fatal


def check_step(
    step: Step, plan: KVPlan, *, max_context: int, vocab_size: int, capabilities: RunnerCapabilities
) -> None:
    """Raise `CapacityExceeded` for a sequence beyond `max_context` tokens, `Fatal` for what no engine should send."""
    _check_shapes(step)
    _check_lengths(step, max_context)
    _check_token_ids(step, vocab_size, capabilities)
    if int(step.lora.min()) < -1 or int(step.lora.max()) >= capabilities.lora_slots:
        raise Fatal(f"adapter slots {step.lora.tolist()}; this runner has {capabilities.lora_slots}, and -1 is none")
    if plan.layout == "paged":
        _check_blocks(step, plan)
    else:
        _check_slots(step, plan)
    _check_logit_rows(step, capabilities.max_verify_rows)


def wanted_rows(step: Step) -> I32:
    """Rows to compute logits of: row 0 if none is wanted, for operations take no empty batch; it is dropped later."""
    return step.logit_rows if len(step.logit_rows) else np.zeros(1, np.int32)


def flat_indices(step: Step, table: I32, block_tokens: int) -> I32:
    """int32 `[T]`: where each new token's KV belongs, by block table `[S, W]` and position."""
    owner = np.repeat(np.arange(step.num_sequences), np.diff(step.q_start))
    column, offset = np.divmod(step.positions, block_tokens)
    indices: I32 = table[owner, column] * np.int32(block_tokens) + offset.astype(np.int32)
    return indices


def probe_step(start: int, end: int) -> Step:
    """Tokens `start` to `end` of a sequence in slot 0 or block 0; each layout reads its own fields."""
    positions = np.arange(start, end, dtype=np.int32)
    return Step(
        token_ids=np.zeros(end - start, np.int64),
        positions=positions,
        q_start=np.array([0, end - start], np.int32),
        kv_len=np.array([end], np.int32),
        slot=np.zeros(1, np.int32),
        logit_rows=np.array([end - start - 1], np.int32),
        lora=np.full(1, -1, np.int32),
        block_table=np.zeros((1, 1), np.int32),
        slot_map=positions,
    )


def _check_shapes(step: Step) -> None:
    num_sequences = step.num_sequences
    if num_sequences < 1:
        raise Fatal("a step has at least one sequence")
    lengths = (len(step.q_start) - 1, len(step.slot), len(step.lora))
    if lengths != (num_sequences,) * 3 or len(step.positions) != step.num_tokens:
        raise Fatal(f"q_start, slot and lora speak of {lengths} sequences, kv_len of {num_sequences}")


def _check_lengths(step: Step, max_context: int) -> None:
    counts = np.diff(step.q_start)
    if step.q_start[0] != 0 or step.q_start[-1] != step.num_tokens or counts.min() < 1:
        raise Fatal(f"q_start {step.q_start.tolist()} does not cut {step.num_tokens} tokens into sequences")
    longest = int(step.kv_len.max())
    if longest > max_context:
        raise CapacityExceeded(f"a sequence of {longest} tokens exceeds the planned context of {max_context}")
    if (step.kv_len < counts).any():
        raise Fatal(f"kv_len {step.kv_len.tolist()} is less than the new tokens {counts.tolist()}")
    starts = np.repeat(step.kv_len - step.q_start[1:], counts)
    if not np.array_equal(step.positions, starts + np.arange(step.num_tokens)):
        raise Fatal("positions do not lead up to kv_len")


def _check_token_ids(step: Step, vocab_size: int, capabilities: RunnerCapabilities) -> None:
    if step.sampling is not None and not capabilities.device_sampling:
        raise Fatal("the step wants tokens, and this runner declares no device_sampling")
    if int(step.token_ids.max()) >= vocab_size:
        raise Fatal(f"a token id lies outside 0 to {vocab_size - 1}")
    if int(step.token_ids.min()) < 0 and not capabilities.device_sampling:
        raise Fatal("a token id refers to the step before, and this runner declares no device_sampling")


def _check_slots(step: Step, plan: KVPlan) -> None:
    slots = step.slot.tolist()
    if len(set(slots)) != len(slots) or min(slots) < 0 or max(slots) >= plan.num_blocks:
        raise Fatal(f"slots {slots} are not distinct numbers within 0 to {plan.num_blocks - 1}")


def _check_blocks(step: Step, plan: KVPlan) -> None:
    table, slot_map = step.block_table, step.slot_map
    if table is None or slot_map is None:
        raise Fatal("paged KV needs block_table and slot_map")
    used = -(-step.kv_len // plan.block_tokens)
    if table.ndim != 2 or len(table) != step.num_sequences or table.shape[1] < used.max():
        raise Fatal(f"block_table {table.shape} does not hold {used.tolist()} blocks of {plan.block_tokens} tokens")
    numbers = table[np.arange(table.shape[1]) < used[:, None]]
    if numbers.min() < 0 or numbers.max() >= plan.num_blocks:
        raise Fatal(f"block_table names a block outside 0 to {plan.num_blocks - 1}")
    if not np.array_equal(slot_map, flat_indices(step, table, plan.block_tokens)):
        raise Fatal("slot_map does not follow from block_table and positions")
    if len(np.unique(slot_map)) != len(slot_map):
        raise Fatal("two sequences of the step write the same block")


def _check_logit_rows(step: Step, max_verify_rows: int) -> None:
    rows = step.logit_rows
    if not len(rows):
        return
    if rows.min() < 0 or rows.max() >= step.num_tokens or (np.diff(rows) <= 0).any():
        raise Fatal(f"logit rows {rows.tolist()} do not ascend within 0 to {step.num_tokens - 1}")
    owners = np.searchsorted(step.q_start, rows, side="right")
    if len(owners) > max_verify_rows and np.bincount(owners).max() > max_verify_rows:
        raise Fatal(f"more than {max_verify_rows} logit rows for one sequence")
