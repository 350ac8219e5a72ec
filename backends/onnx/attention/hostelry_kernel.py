"""Attention as our own `RaggedAttention` operator: packed tokens, keys and values in blocks of 16, nothing padded.

q_start [S + 1], kv_len [S], blocks [S, W] i32 · cos_r, sin_r [C, head_dim / 2] f32 for each rotary embedding r
geometry [2] i32, type and number of blocks · kv [layers, bytes] u8, written in place: the operator changes its input
"""

from __future__ import annotations

from backends.models.spec import ModelSpec
from backends.onnx.attention.rotary_tables import distinct_ropes
from backends.onnx.graph import HOSTELRY, Graph


class RaggedAttention:
    """Declares the inputs above and records attention layer by layer."""

    def __init__(self, spec: ModelSpec, graph: Graph) -> None:
        self._spec = spec
        self._graph = graph
        self._ropes = distinct_ropes(spec)
        self._tables = [
            graph.input("q_start", ["S + 1"], "int32"),
            graph.input("kv_len", ["S"], "int32"),
            graph.input("blocks", ["S", "W"], "int32"),
            graph.input("geometry", [2], "int32"),
            graph.input("kv", [spec.num_layers, "bytes"], "uint8"),
        ]
        for index in range(len(self._ropes)):
            graph.input(f"cos_{index}", ["C", spec.head_dim // 2])
            graph.input(f"sin_{index}", ["C", spec.head_dim // 2])

    def record(self, qkv: str, layer: int) -> str:
        spec = self._spec
        rope = self._ropes.index(spec.rope(layer))
        return self._graph.node(
            "RaggedAttention",
            [qkv, f"cos_{rope}", f"sin_{rope}", *self._tables],
            domain=HOSTELRY,
            layer=layer,
            heads=spec.num_heads,
            kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            window=spec.window(layer),
            scale=float(spec.score_scale),
            softcap=float(spec.attention_softcap),
        )
