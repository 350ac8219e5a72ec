"""What every runner needs: KV memory planning, and the checks of a `Step` before its arrays become addresses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.api import I32, KVLimit, KVPlan, RunnerCapabilities, Step
from backends.errors import CapacityExceeded, Fatal
from backends.kv import BLOCK_TOKENS, KVDtype, KVLayout
from backends.models.spec import ModelSpec

Layouts = tuple[KVLayout, ...]


def plan_kv(
    spec: ModelSpec,
    limit: KVLimit,
    *,
    layouts: Layouts = ("slot",),
    dtypes: Sequence[KVDtype] = (),
    bytes_per_token: int = 0,
    step: int = 1,
) -> KVPlan:
    """The most that `limit` allows and all its sequences can use, in its layout.

    A token takes `bytes_per_token` (0 is float32), and room is taken for a multiple of `step` tokens. Raises
    `CapacityExceeded` when not even one sequence of `max_context` fits, `Fatal` for a layout that is not among
    `layouts` or a type that is not among `dtypes`.
    """
    if limit.layout not in layouts:
        raise Fatal(f"KV layout {limit.layout!r} was asked for; this runner declares {', '.join(layouts)}")
    if limit.dtype != "auto" and limit.dtype not in dtypes:
        raise Fatal(f"KV as {limit.dtype} was asked for; this runner declares {', '.join(dtypes) or 'no choice'}")
    context = context_of(spec, limit)
    block_tokens = context if limit.layout == "slot" else BLOCK_TOKENS
    blocks_each = -(-context // block_tokens) if block_tokens > 0 else 0
    bytes_per_block = -(-block_tokens // step) * step * (bytes_per_token or spec.kv_bytes_per_token)
    num_blocks = min(limit.max_sequences * blocks_each, limit.max_bytes // bytes_per_block) if blocks_each > 0 else 0
    if num_blocks < max(1, blocks_each):
        raise CapacityExceeded(
            f"one sequence of {context} tokens needs {blocks_each * bytes_per_block / 1e6:.1f} MB of KV memory and "
            f"{limit.max_bytes / 1e6:.1f} MB are allowed; raise kv_cache_mb or lower max_context"
        )
    return KVPlan(
        layout=limit.layout, num_blocks=num_blocks, block_tokens=block_tokens, bytes_per_block=bytes_per_block
    )


def context_of(spec: ModelSpec, limit: KVLimit) -> int:
    """Tokens that one sequence may hold under `limit`."""
    return min(limit.max_context, spec.max_context)


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


def flat_indices(step: Step, table: I32, block_tokens: int) -> I32:
    """int32 `[T]`: where each new token's KV belongs, by block table `[S, W]` and position."""
    owner = np.repeat(np.arange(step.num_sequences), np.diff(step.q_start))
    column, offset = np.divmod(step.positions, block_tokens)
    indices: I32 = table[owner, column] * np.int32(block_tokens) + offset.astype(np.int32)
    return indices


def _check_logit_rows(step: Step, max_verify_rows: int) -> None:
    rows = step.logit_rows
    if not len(rows):
        return
    if rows.min() < 0 or rows.max() >= step.num_tokens or (np.diff(rows) <= 0).any():
        raise Fatal(f"logit rows {rows.tolist()} do not ascend within 0 to {step.num_tokens - 1}")
    owners = np.searchsorted(step.q_start, rows, side="right")
    if len(owners) > max_verify_rows and np.bincount(owners).max() > max_verify_rows:
        raise Fatal(f"more than {max_verify_rows} logit rows for one sequence")
