"""Keys and values of slots in plain arrays, and their binding to runs with `GroupQueryAttention` on the CPU."""

from __future__ import annotations

import math
import mmap
from collections import OrderedDict

import numpy as np
import onnxruntime as ort

from backends.api import F32, Step
from backends.models.spec import ModelSpec
from backends.onnx.attention.rotary_tables import distinct_ropes, rotary_tables
from backends.onnx.embedding import Embedding
from backends.onnx.io_binding import Bound, Buffers, bind_constants
from backends.onnx.padding import Array, lay_out


class SlotPool:
    """Slots of each layer: `keys` and `values` float32 `[slots, kv_heads, slot_tokens, head_dim]`, zero at first.

    Mapped from the system rather than taken from the heap: memory is used only where tokens are written, and all of
    it is returned with the pool. Raises `MemoryError` if the system refuses.
    """

    def __init__(self, spec: ModelSpec, *, num_slots: int, slot_tokens: int) -> None:
        shape = (num_slots, spec.num_kv_heads, slot_tokens, spec.head_dim)
        self.num_slots, self.slot_tokens = num_slots, slot_tokens
        self.keys = [_mapped(shape) for _ in range(spec.num_layers)]
        self.values = [_mapped(shape) for _ in range(spec.num_layers)]

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        for array in (*self.keys, *self.values):
            array[destination, :, :num_tokens] = array[source, :, :num_tokens]


def _mapped(shape: tuple[int, ...]) -> F32:
    num_bytes = 4 * math.prod(shape)
    try:
        memory = mmap.mmap(-1, num_bytes)
    except OSError as error:
        raise MemoryError(f"{num_bytes / 1e6:.0f} MB for the keys or values of a layer: {error}") from error
    return np.frombuffer(memory, np.float32).reshape(shape)


_MAX_BINDINGS = 64
"""Ranges of slots whose KV stays bound; a new binding takes a fraction of a millisecond."""

_INPUTS: dict[str, type[np.generic]] = {
    "pad_idx": np.int64,
    "unpad_idx": np.int64,
    "qkv_shape": np.int64,
    "seqlens": np.int32,
    "qsl": np.int32,
}


class Binding:
    """Runs one session over one pool."""

    def __init__(self, session: ort.InferenceSession, spec: ModelSpec, pool: SlotPool) -> None:
        self.pool = pool
        self._session = session
        self._spec = spec
        self._constants: dict[str, Array] = {"total": np.array(pool.slot_tokens, np.int32)}
        for index, rope in enumerate(distinct_ropes(spec)):
            tables = rotary_tables(rope, spec.head_dim, num_positions=pool.slot_tokens)
            self._constants[f"cos_{index}"], self._constants[f"sin_{index}"] = tables
        self._buffers = Buffers(_INPUTS, hidden_size=spec.hidden_size, vocab_size=spec.vocab_size)
        self._bound: OrderedDict[tuple[int, int], Bound] = OrderedDict()

    def run(self, embedding: Embedding, step: Step) -> F32:
        """Logits `[R, vocab]`, overwritten by the next run."""
        layout = lay_out(step)
        bound = self._bound_to(layout.first_slot, layout.num_rows)
        arrays: dict[str, Array] = {name: getattr(layout, name) for name in ("pad_idx", "unpad_idx", "seqlens", "qsl")}
        width = self._spec.q_size + 2 * self._spec.kv_size
        arrays["qkv_shape"] = np.array([layout.num_rows, layout.longest, width], np.int64)
        logits = self._buffers.fill(bound, step, embedding, arrays)
        self._session.run_with_iobinding(bound.io)
        return logits

    def _bound_to(self, first_slot: int, num_slots: int) -> Bound:
        key = (first_slot, num_slots)
        if key in self._bound:
            self._bound.move_to_end(key)
            return self._bound[key]
        if len(self._bound) >= _MAX_BINDINGS:
            self._bound.popitem(last=False)
        self._bound[key] = Bound(self._bind_kv(slice(first_slot, first_slot + num_slots)))
        return self._bound[key]

    def _bind_kv(self, slots: slice) -> ort.IOBinding:
        """Past and present are the same memory: these slots of the pool."""
        io = self._session.io_binding()
        bind_constants(io, self._constants)
        for kind, layers in (("k", self.pool.keys), ("v", self.pool.values)):
            for layer, array in enumerate(layers):
                rows = array[slots]
                address = rows.ctypes.data
                io.bind_input(f"p{kind}_{layer}", "cpu", 0, np.float32, rows.shape, address)
                io.bind_output(f"{kind}_{layer}", "cpu", 0, np.float32, rows.shape, address)
        return io
