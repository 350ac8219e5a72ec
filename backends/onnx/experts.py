"""Records a mixture of experts: tokens sorted by expert, each expert's linears over its own tokens only.

The linears of an expert that no token chose run on zero rows, which costs a microsecond and reads no weights. `If`
around each expert was no faster, for more nodes. onnxruntime's own QMoE is: 0.07 against 0.20 ms a layer for one token
and 8 experts, 0.2 against 0.6 for 128, equal or 1.3 times from 128 tokens on (Q4_0, two cores). But it knows no minimum
of a group, which five of our formats have, and one group size for gate, up and down, which K-quant files mix.
"""

from __future__ import annotations

from typing import Protocol

from backends.models.spec import ModelSpec
from backends.onnx.graph import Graph


class Linears(Protocol):
    """Part of a recorder that is used here."""

    graph: Graph

    def product(self, x: str, names: tuple[str, ...]) -> str: ...

    def gated(self, gate_up: str) -> str: ...


def record_experts(ops: Linears, spec: ModelSpec, normed: str, layer: int, *, router: str) -> str:
    """`[T, hidden]`. Of equal router weights the lower expert counts; each token's experts are summed best first."""
    graph, chosen_each = ops.graph, spec.experts_per_token
    shares = graph.node("Softmax", [graph.node("MatMul", [normed, router])], axis=-1)
    weights, experts = graph.nodes("TopK", [shares, graph.ints(chosen_each)], 2, axis=-1)
    if spec.normalized_experts:
        weights = graph.node("Div", [weights, graph.node("ReduceSum", [weights, graph.ints(1)], keepdims=1)])
    pairs = graph.node("Reshape", [experts, graph.ints(-1)])  # [T * k], token by token
    by_expert = _ascending(graph, pairs)
    counts = _counts(graph, pairs, spec.num_experts)
    tokens = graph.node("Div", [by_expert, graph.ints(chosen_each)])
    prefix = f"layers.{layer}.experts."
    gate_up = _each(ops, graph.node("Gather", [normed, tokens], axis=0), counts, spec, prefix, ("gate", "up"))
    down = _each(ops, ops.gated(gate_up), counts, spec, prefix, ("down",))
    by_token = graph.node("Gather", [down, _ascending(graph, by_expert)], axis=0)
    by_token = graph.node("Reshape", [by_token, graph.ints(-1, chosen_each, spec.hidden_size)])
    weighted = graph.node("Mul", [by_token, graph.node("Unsqueeze", [weights, graph.ints(2)])])
    return graph.node("ReduceSum", [weighted, graph.ints(1)], keepdims=0)


def _each(ops: Linears, rows: str, counts: str, spec: ModelSpec, prefix: str, names: tuple[str, ...]) -> str:
    """Rows lie expert by expert, `counts[e]` of them for expert e."""
    parts = ops.graph.nodes("Split", [rows, counts], spec.num_experts, axis=0)
    outputs = [
        ops.product(part, tuple(f"{prefix}{expert}.{name}" for name in names)) for expert, part in enumerate(parts)
    ]
    return ops.graph.node("Concat", outputs, axis=0)


def _ascending(graph: Graph, values: str) -> str:
    """Indices that sort; of equal values the earlier comes first, as `TopK` promises. Of a permutation, its inverse."""
    inputs = [values, graph.node("Shape", [values])]
    return graph.nodes("TopK", inputs, 2, axis=0, largest=0)[1]


def _counts(graph: Graph, experts: str, num_experts: int) -> str:
    one_hot = graph.node("OneHot", [experts, graph.ints(num_experts), graph.ints(0, 1)])
    return graph.node("ReduceSum", [one_hot, graph.ints(0)], keepdims=0)
