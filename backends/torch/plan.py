"""How much KV memory is taken, in which layout."""

from __future__ import annotations

from backends.api import KVLimit, KVPlan
from backends.errors import CapacityExceeded
from backends.models.spec import ModelSpec

_BLOCK_TOKENS = 16


def plan_kv(spec: ModelSpec, limit: KVLimit) -> KVPlan:
    """The most that `limit` allows and all its sequences can use.

    Raises `CapacityExceeded` when not even one sequence of `max_context` fits.
    """
    context = min(limit.max_context, spec.max_context)
    layout = limit.layout
    block_tokens = context if layout == "slot" else _BLOCK_TOKENS
    blocks_each = -(-context // block_tokens) if block_tokens > 0 else 0
    bytes_per_block = block_tokens * spec.kv_bytes_per_token
    num_blocks = min(limit.max_sequences * blocks_each, limit.max_bytes // bytes_per_block) if blocks_each > 0 else 0
    if num_blocks < max(1, blocks_each):
        raise CapacityExceeded(
            f"one sequence of {context} tokens needs {blocks_each * bytes_per_block / 1e6:.1f} MB of KV memory and "
            f"{limit.max_bytes / 1e6:.1f} MB are allowed; raise kv_cache_mb or lower max_context"
        )
    return KVPlan(layout=layout, num_blocks=num_blocks, block_tokens=block_tokens, bytes_per_block=bytes_per_block)
