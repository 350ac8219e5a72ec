"""Keys and values in blocks for our own attention, and runs over them."""

from __future__ import annotations

import mmap

import numpy as np

from backends.api import F32, I32, KVPlan, Step
from backends.kernels.attention import KV_TYPES
from backends.kernels.library import U8, Library
from backends.kv import BLOCK_TOKENS, KVDtype
from backends.models.spec import ModelSpec
from backends.onnx.adapters import Adapters
from backends.onnx.attention.rotary_tables import distinct_ropes, rotary_tables
from backends.onnx.embedding import Embedding
from backends.onnx.io_binding import Bound, Buffers, bind_constants
from backends.onnx.load import OnnxModel
from backends.onnx.padding import Array

_INPUTS: dict[str, type[np.generic]] = dict.fromkeys(("q_start", "kv_len", "blocks", "lora"), np.int32)


class BlockPool:
    """Blocks of a plan, uint8 `[layers, bytes]`, of which a slot has as many as its tokens need.

    Mapped from the system rather than taken from the heap: memory is used only where tokens are written, and all of
    it is returned with the pool. Raises `MemoryError` if the system refuses.
    """

    def __init__(self, spec: ModelSpec, plan: KVPlan, library: Library, kv_type: KVDtype) -> None:
        self.blocks_each = -(-plan.block_tokens // BLOCK_TOKENS)
        self.num_slots = plan.num_blocks
        self.num_blocks = self.blocks_each * plan.num_blocks
        self.kv_type = kv_type
        self._is_paged = plan.layout == "paged"
        size: int = library.functions.hk_kv_bytes(KV_TYPES[kv_type], spec.num_kv_heads, spec.head_dim, self.num_blocks)
        self.data = _mapped(spec.num_layers, size)

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        """A slot, or a block of the paged layout, in all layers; of a slot only the blocks of its first tokens."""
        slots = self.data.reshape(len(self.data), 2, self.num_slots, self.blocks_each, -1)
        num_blocks = self.blocks_each if num_tokens is None else -(-num_tokens // BLOCK_TOKENS)
        slots[:, :, destination, :num_blocks] = slots[:, :, source, :num_blocks]

    def blocks_of(self, step: Step) -> I32:
        """int32 `[S, W]`."""
        if self._is_paged and step.block_table is not None:
            return step.block_table
        first = step.slot[:, None] * self.blocks_each
        return (first + np.arange(self.blocks_each)).astype(np.int32)


class BlockBinding:
    """Runs one session over one pool."""

    def __init__(self, loaded: OnnxModel, pool: BlockPool, adapters: Adapters, *, max_context: int) -> None:
        self.pool = pool
        self._session, spec = loaded.session, loaded.spec
        geometry = np.array([KV_TYPES[pool.kv_type], pool.num_blocks], np.int32)
        self._constants: dict[str, Array] = {"kv": pool.data, "geometry": geometry, "adapters": adapters.table}
        for index, rope in enumerate(distinct_ropes(spec)):
            tables = rotary_tables(rope, spec.head_dim, num_positions=max_context)
            self._constants[f"cos_{index}"], self._constants[f"sin_{index}"] = tables
        self._buffers = Buffers(_INPUTS, hidden_size=spec.hidden_size, vocab_size=spec.vocab_size)
        self._bound = Bound(self._session.io_binding())
        bind_constants(self._bound.io, self._constants)

    def run(self, embedding: Embedding, step: Step) -> F32:
        """Logits `[R, vocab]`, overwritten by the next run."""
        arrays = {"q_start": step.q_start, "kv_len": step.kv_len, "blocks": self.pool.blocks_of(step)}
        arrays["lora"] = np.repeat(step.lora, np.diff(step.q_start))
        logits = self._buffers.fill(self._bound, step, embedding, arrays)
        self._session.run_with_iobinding(self._bound.io)
        return logits


def _mapped(num_layers: int, bytes_each: int) -> U8:
    try:
        memory = mmap.mmap(-1, num_layers * bytes_each)
    except OSError as error:
        raise MemoryError(f"{num_layers * bytes_each / 1e6:.0f} MB for keys and values: {error}") from error
    return np.frombuffer(memory, np.uint8).reshape(num_layers, bytes_each)
