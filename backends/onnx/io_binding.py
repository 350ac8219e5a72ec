"""Inputs and outputs of every run on the host: small inputs and the logits, bound by address.

Everything bound is in buffers that outlive the run, so that runs of the same shape (decoding, mostly) bind nothing
at all: they only copy a few small arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from backends.api import F32, Step
from backends.onnx.embedding import Embedding
from backends.onnx.padding import Array, Buffer
from backends.steps import wanted_rows

_COMMON: dict[str, type[np.generic]] = {"embedded": np.float32, "sel": np.int64}


class Bound:
    """An IOBinding, and the shapes that its arrays had when last bound."""

    def __init__(self, io: ort.IOBinding) -> None:
        self.io = io
        self.shapes: dict[str, tuple[object, ...]] = {}


class Buffers:
    """The arrays that go with every run: inputs of the step, and the logits."""

    def __init__(self, dtypes: dict[str, type[np.generic]], *, hidden_size: int, vocab_size: int) -> None:
        self._inputs = {name: Buffer(dtype) for name, dtype in (_COMMON | dtypes).items()}
        self._logits = Buffer(np.float32)
        self._hidden_size = hidden_size
        self._vocab_size = vocab_size

    def fill(self, bound: Bound, step: Step, embedding: Embedding, arrays: Mapping[str, Array]) -> F32:
        """Copy the inputs of a step and bind what moved or changed its shape; where the logits will be."""
        embedding.look_up(step.token_ids, out=self._input(bound, "embedded", step.num_tokens, self._hidden_size))
        rows = wanted_rows(step)
        self._input(bound, "sel", len(rows))[:] = rows
        for name, values in arrays.items():
            self._input(bound, name, *values.shape)[:] = values
        return self._output(bound, len(rows))[: len(step.logit_rows)]

    def _input(self, bound: Bound, name: str, *shape: int) -> Array:
        buffer = self._inputs[name]
        array = buffer.view(*shape)
        if bound.shapes.get(name) != (shape, buffer.generation):
            bound.io.bind_input(name, "cpu", 0, buffer.dtype, shape, buffer.address)
            bound.shapes[name] = (shape, buffer.generation)
        return array

    def _output(self, bound: Bound, num_rows: int) -> F32:
        shape = (num_rows, self._vocab_size)
        logits = self._logits.view(*shape)
        if bound.shapes.get("logits") != (shape, self._logits.generation):
            bound.io.bind_output("logits", "cpu", 0, np.float32, shape, self._logits.address)
            bound.shapes["logits"] = (shape, self._logits.generation)
        return logits.view(np.float32)


def bind_constants(io: ort.IOBinding, constants: Mapping[str, Array]) -> None:
    """Bind constants by address: they have to outlive the binding."""
    for name, constant in constants.items():
        io.bind_input(name, "cpu", 0, constant.dtype, constant.shape, constant.ctypes.data)
