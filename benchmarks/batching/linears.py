"""The decoder with everything but its linears taken out: what they alone would allow.

The graph is recorded by the product's own recorder, so the same operators multiply the same weights in the same order;
norms, sums, attention and activations are left away. What runs between two linears is a slice where the next one takes
fewer columns. `rows / seconds` is the ceiling in tokens a second for a step of so many rows.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np

from backends.loading import open_model
from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.onnx.attention.hostelry_kernel import RaggedAttention
from backends.onnx.graph import Graph
from backends.onnx.providers import choose_provider
from backends.onnx.recorder import Recorder
from backends.onnx.session import open_session, share_arrays
from backends.onnx.weights import F32, OnnxWeights, find_kernels
from benchmarks.batching.scene import THREADS

_RUNS = 5


class Linears:
    """Linears of a model, ready to run."""

    def __init__(self, path: Path) -> None:
        model = open_model(path)
        library = find_kernels().library
        weights = OnnxWeights(model.tensors, exact=False, kernels=library, progress=lambda _: None)
        recorder = _LinearsOnly(model.spec, weights, _NoAttention, None)
        logits = forward(model.spec, recorder)
        graph = recorder.graph
        graph.named("Identity", [logits], [graph.output("logits", ["R", model.spec.vocab_size])])
        self._shared = share_arrays(graph)
        (provider,) = choose_provider("cpu").candidates
        path_of = library.path if library else None
        self._session = open_session(graph, provider, threads=THREADS, shared=self._shared, library=path_of)
        self._hidden_size = model.spec.hidden_size

    def step_s(self, rows: int) -> float:
        """Seconds of all linears of a step with so many rows, each with logits; the median of a few."""
        x = np.random.default_rng(0).standard_normal((rows, self._hidden_size)).astype(np.float32)
        self._run(x)
        return statistics.median(self._run(x) for _ in range(_RUNS))

    def logits(self, x: F32) -> F32:
        """Output of all linears, [rows, vocab], for `x`: [rows, hidden]."""
        made: F32 = self._session.run(["logits"], {"embedded": x, "sel": np.arange(len(x))})[0]
        return made

    def _run(self, x: F32) -> float:
        start = time.perf_counter()
        self.logits(x)
        return time.perf_counter() - start


class _NoAttention(RaggedAttention):
    """Attention that passes its queries unchanged."""

    def __init__(self, spec: ModelSpec, graph: Graph) -> None:
        self._spec, self._graph = spec, graph

    def record(self, qkv: str, layer: int) -> str:
        del layer
        return _first(self._graph, qkv, self._spec.q_size)


class _LinearsOnly(Recorder):
    def norm(self, hidden: str, weight: str) -> str:
        del weight
        return hidden

    def add_norm(self, branch: str, residual: str, weight: str) -> tuple[str, str]:
        del residual, weight
        return branch, branch

    def select(self, x: str) -> str:
        return x

    def gated(self, gate_up: str) -> str:
        return gate_up if gate_up in self._multiplied else _first(self.graph, gate_up, self._spec.ffn_size)


def _first(graph: Graph, x: str, columns: int) -> str:
    return graph.node("Slice", [x, graph.ints(0), graph.ints(columns), graph.ints(1)])
