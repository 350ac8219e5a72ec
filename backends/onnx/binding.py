"""Binds the arrays of a run to a session on the CPU by address, and runs it.

Everything bound lies in buffers that outlive the run, so that runs of the same shape (decoding, mostly) bind nothing
at all: they copy a few small arrays and go.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import onnxruntime as ort

from backends.api import F32, Step
from backends.models.spec import ModelSpec
from backends.onnx.buffers import Array, Buffer
from backends.onnx.embedding import Embedding
from backends.onnx.layout import Layout, lay_out
from backends.onnx.pool import Pool
from backends.onnx.rotary import distinct_ropes, rotary_tables

_MAX_BINDINGS = 64
"""Ranges of slots whose KV stays bound; binding one anew takes a fraction of a millisecond."""

_INPUTS: dict[str, type[np.generic]] = {
    "embedded": np.float32,
    "sel": np.int64,
    "pad_idx": np.int64,
    "unpad_idx": np.int64,
    "qkv_shape": np.int64,
    "seqlens": np.int32,
    "qsl": np.int32,
}


class Bound:
    """An IOBinding over the KV of one range of slots, and the shapes that its other arrays had when last bound."""

    def __init__(self, io: ort.IOBinding) -> None:
        self.io = io
        self.shapes: dict[str, tuple[object, ...]] = {}


class Binding:
    """Runs one session over one pool."""

    def __init__(self, session: ort.InferenceSession, spec: ModelSpec, pool: Pool) -> None:
        self.pool = pool
        self._session = session
        self._spec = spec
        self._constants: dict[str, Array] = {"total": np.array(pool.slot_tokens, np.int32)}
        for index, rope in enumerate(distinct_ropes(spec)):
            tables = rotary_tables(rope, spec.head_dim, num_positions=pool.slot_tokens)
            self._constants[f"cos_{index}"], self._constants[f"sin_{index}"] = tables
        self._inputs = {name: Buffer(dtype) for name, dtype in _INPUTS.items()}
        self._logits = Buffer(np.float32)
        self._bound: OrderedDict[tuple[int, int], Bound] = OrderedDict()

    def run(self, embedding: Embedding, step: Step) -> F32:
        """Logits `[R, vocab]`, overwritten by the next run."""
        layout, logit_rows = lay_out(step), step.logit_rows
        bound = self._bound_to(layout.first_slot, layout.num_rows)
        embedded = self._input(bound, "embedded", step.num_tokens, self._spec.hidden_size)
        embedding.look_up(step.token_ids, out=embedded)
        # The graph has no empty batch: without a wanted row, row 0 is computed and dropped.
        self._input(bound, "sel", max(1, len(logit_rows)))[:] = logit_rows if len(logit_rows) else 0
        for name in ("pad_idx", "unpad_idx", "seqlens", "qsl"):
            values: Array = getattr(layout, name)
            self._input(bound, name, len(values))[:] = values
        self._input(bound, "qkv_shape", 3)[:] = self._qkv_shape(layout)
        logits = self._output(bound, max(1, len(logit_rows)))
        self._session.run_with_iobinding(bound.io)
        return logits[: len(logit_rows)]

    def _qkv_shape(self, layout: Layout) -> tuple[int, int, int]:
        return layout.num_rows, layout.longest, self._spec.q_size + 2 * self._spec.kv_size

    def _input(self, bound: Bound, name: str, *shape: int) -> Array:
        buffer = self._inputs[name]
        array = buffer.view(*shape)
        if bound.shapes.get(name) != (shape, buffer.generation):
            bound.io.bind_input(name, "cpu", 0, buffer.dtype, shape, buffer.address)
            bound.shapes[name] = (shape, buffer.generation)
        return array

    def _output(self, bound: Bound, num_rows: int) -> F32:
        shape = (num_rows, self._spec.vocab_size)
        logits = self._logits.view(*shape)
        if bound.shapes.get("logits") != (shape, self._logits.generation):
            bound.io.bind_output("logits", "cpu", 0, np.float32, shape, self._logits.address)
            bound.shapes["logits"] = (shape, self._logits.generation)
        return logits.view(np.float32)

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
        for name, constant in self._constants.items():
            io.bind_input(name, "cpu", 0, constant.dtype, constant.shape, constant.ctypes.data)
        for kind, layers in (("k", self.pool.keys), ("v", self.pool.values)):
            for layer, array in enumerate(layers):
                rows = array[slots]
                address = rows.ctypes.data
                io.bind_input(f"p{kind}_{layer}", "cpu", 0, np.float32, rows.shape, address)
                io.bind_output(f"{kind}_{layer}", "cpu", 0, np.float32, rows.shape, address)
        return io
