"""Binds one step's arrays to the session by address, and runs it. Nothing is copied but the index arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from backends.api import F32, I32
from backends.models.spec import ModelSpec
from backends.onnx.layout import Layout
from backends.onnx.pool import Pool
from backends.onnx.rotary import rotary_tables


class StepBinding:
    """One IOBinding for each number of rows, with the KV slices bound once and for all."""

    def __init__(self, session: ort.InferenceSession, spec: ModelSpec, pool: Pool) -> None:
        self.pool = pool
        self._session = session
        self._spec = spec
        self._rotary = rotary_tables(spec, pool.slot_tokens)
        self._total = np.array(pool.slot_tokens, np.int32)
        self._qkv_shape = np.array([0, 0, spec.q_size + 2 * spec.kv_size], np.int64)
        self._bindings: dict[int, ort.IOBinding] = {}

    def run(self, embedded: F32, layout: Layout, logit_rows: I32) -> F32:
        """Logits `[R, vocab]`, newly allocated."""
        binding = self._bindings.get(layout.num_rows) or self._bind_kv(layout.num_rows)
        self._qkv_shape[:2] = layout.num_rows, layout.longest
        # The graph has no empty batch: without a wanted row, row 0 is computed and dropped.
        rows = logit_rows.astype(np.int64) if len(logit_rows) else np.zeros(1, np.int64)
        logits = np.empty((len(rows), self._spec.vocab_size), np.float32)
        inputs: dict[str, npt.NDArray[np.generic]] = {
            "embedded": embedded,
            "sel": rows,
            "pad_idx": layout.pad_idx,
            "unpad_idx": layout.unpad_idx,
            "qkv_shape": self._qkv_shape,
            "seqlens": layout.seqlens,
            "qsl": layout.qsl,
        }
        for name, array in inputs.items():
            _bind_input(binding, name, array)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits[: len(logit_rows)]

    def _bind_kv(self, num_rows: int) -> ort.IOBinding:
        """Past and present are the same memory: the slots 0…num_rows-1 of the pool."""
        binding = self._session.io_binding()
        _bind_input(binding, "total", self._total)
        _bind_input(binding, "cos", self._rotary[0])
        _bind_input(binding, "sin", self._rotary[1])
        for kind, arrays in (("k", self.pool.keys), ("v", self.pool.values)):
            for layer, array in enumerate(arrays):
                rows = array[:num_rows]
                _bind_input(binding, f"p{kind}_{layer}", rows)
                binding.bind_output(f"{kind}_{layer}", "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        self._bindings[num_rows] = binding
        return binding


def _bind_input(binding: ort.IOBinding, name: str, array: npt.NDArray[np.generic]) -> None:
    binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
