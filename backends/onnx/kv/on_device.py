"""Runs the graph with plain attention on a device: keys and values stay there, small arrays are copied at every run."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from backends.api import F32, I64, KVPlan, Step
from backends.onnx.attention.rotary_tables import distinct_ropes, rotary_tables
from backends.onnx.embedding import Embedding
from backends.onnx.graph import Graph
from backends.onnx.load import OnnxModel
from backends.onnx.padding import Array, pad
from backends.onnx.provider import Provider
from backends.onnx.session import open_session
from backends.steps import wanted_rows


class DevicePool:
    """Keys and values of all slots, an array `[slots * slot_tokens, kv_heads * head_dim]` on the device each.

    In the order k_0, v_0, k_1 … A small graph that copies rows also allocates: its output is put on the device.
    """

    def __init__(self, loaded: OnnxModel, *, num_slots: int, slot_tokens: int) -> None:
        spec = loaded.spec
        self.num_slots, self.slot_tokens = num_slots, slot_tokens
        self._provider = loaded.provider
        self._copier = open_session(_copier(spec.kv_size), loaded.provider, threads=1)
        zeros = np.zeros((num_slots * slot_tokens, spec.kv_size), np.float32)
        nothing = np.zeros(1, np.int64)
        self.arrays = [self._copied(zeros, nothing, nothing) for _ in range(2 * spec.num_layers)]

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        tokens = np.arange(self.slot_tokens)[:num_tokens]
        rows = (tokens + source * self.slot_tokens, tokens + destination * self.slot_tokens)
        self.arrays = [self._copied(array, *rows) for array in self.arrays]

    def bind(self, io: ort.IOBinding, index: int, past: str, present: str) -> None:
        """Let a run read array `index` as `past` and write it as `present`."""
        bind_array(io, self._provider, self.arrays[index], past, present)

    def _copied(self, array: ort.OrtValue | F32, source: I64, destination: I64) -> ort.OrtValue:
        io = self._copier.io_binding()
        bind_array(io, self._provider, array, "past", "present")
        io.bind_cpu_input("source", source)
        io.bind_cpu_input("destination", destination[:, None])
        self._copier.run_with_iobinding(io)
        return io.get_outputs()[0]


def bind_array(io: ort.IOBinding, provider: Provider, array: ort.OrtValue | F32, past: str, present: str) -> None:
    """Bind KV in place where the device can, else the output is a new array on the device."""
    if isinstance(array, np.ndarray):
        io.bind_cpu_input(past, array)
    else:
        io.bind_ortvalue_input(past, array)
    if isinstance(array, np.ndarray) or not provider.in_place:
        io.bind_output(present, provider.device)
    else:
        io.bind_ortvalue_output(present, array)


class DeviceBinding:
    """Runs one session over one pool on a device. Raises what onnxruntime raises."""

    def __init__(self, loaded: OnnxModel, plan: KVPlan) -> None:
        self.pool = DevicePool(loaded, num_slots=plan.num_blocks, slot_tokens=plan.block_tokens)
        self._session = loaded.session
        self._spec = loaded.spec
        ropes = distinct_ropes(loaded.spec)
        self._tables = [rotary_tables(r, loaded.spec.head_dim, num_positions=plan.block_tokens) for r in ropes]

    def run(self, embedding: Embedding, step: Step) -> F32:
        """Logits `[R, vocab]`."""
        io = self._session.io_binding()
        for name, array in self._inputs(embedding, step).items():
            io.bind_cpu_input(name, array)
        for index in range(len(self.pool.arrays)):
            name = f"{'kv'[index % 2]}_{index // 2}"
            self.pool.bind(io, index, f"p{name}", name)
        io.bind_output("logits", "cpu")
        self._session.run_with_iobinding(io)
        *self.pool.arrays, logits = io.get_outputs()
        wanted: F32 = logits.numpy()[: len(step.logit_rows)]
        return wanted

    def _inputs(self, embedding: Embedding, step: Step) -> dict[str, Array]:
        embedded = np.empty((step.num_tokens, self._spec.hidden_size), np.float32)
        embedding.look_up(step.token_ids, out=embedded)
        inputs: dict[str, Array] = {"embedded": embedded}
        inputs["sel"] = wanted_rows(step).astype(np.int64)
        inputs |= kv_inputs(step, self.pool.slot_tokens)
        for index, (cos, sin) in enumerate(self._tables):
            inputs[f"cos_{index}"] = cos[step.positions][:, None]
            inputs[f"sin_{index}"] = sin[step.positions][:, None]
        return inputs


def kv_inputs(step: Step, slot_tokens: int) -> dict[str, Array]:
    """Positions of keys and values and masks of the tokens that see them; named as in `plain`."""
    counts = np.diff(step.q_start)
    pad_idx, unpad_idx = pad(np.arange(step.num_sequences), counts, num_rows=step.num_sequences)
    first = step.slot.astype(np.int64) * slot_tokens
    steps = np.arange(int(step.kv_len.max()))
    # Beyond a sequence's end its last token is read again, so that nothing unwritten ever is; the mask hides it.
    read_idx = first[:, None] + np.minimum(steps, step.kv_len[:, None] - 1)
    write_idx = np.repeat(first, counts) + step.positions
    return {
        "pad_idx": pad_idx,
        "unpad_idx": unpad_idx,
        "read_idx": read_idx,
        "write_idx": write_idx[:, None],
        "query_pos": step.positions[pad_idx].astype(np.float32)[:, None, :, None],
        "key_pos": steps.astype(np.float32)[None, None, None],
    }


def _copier(width: int) -> Graph:
    graph = Graph()
    past = graph.input("past", ["N", width])
    rows = graph.node("Gather", [past, graph.input("source", ["n"], "int64")], axis=0)
    destination = graph.input("destination", ["n", 1], "int64")
    graph.named("ScatterND", [past, destination, rows], [graph.output("present", ["N", width])])
    return graph
