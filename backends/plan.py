"""How much KV memory a runner takes: the same arithmetic for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from backends.api import KVLimit, KVPlan
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
