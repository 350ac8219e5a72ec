"""Attention from operators that every execution provider has, for devices.

`GroupQueryAttention` is not one operator there: CUDA's takes no float32, WebGPU's no rows of different lengths, and
DirectML's ignores windows and caps and restarts at position 0 for every chunk. N = slots * C tokens of KV in a layer,
L = the longest sequence after the step:

    pad_idx [B, S], unpad_idx [T] i64 · write_idx [T, 1] i64: where new tokens go · read_idx [B, L] i64: where all lie
    query_pos [B, 1, S, 1], key_pos [1, 1, 1, L] f32 · cos_r, sin_r [T, 1, head_dim / 2] f32 for each rotary embedding
    pk_i, pv_i [N, kv_heads * head_dim] f32, bound to the same memory as the outputs k_i, v_i
"""

from __future__ import annotations

from backends.models.spec import ModelSpec
from backends.onnx.attention.rotary_tables import distinct_ropes
from backends.onnx.graph import Graph

_FAR = 1e9
"""A score this far below the others gets weight 0 in float32."""


class PlainAttention:
    """Declares the inputs and outputs above and records attention layer by layer."""

    def __init__(self, spec: ModelSpec, graph: Graph) -> None:
        self._spec = spec
        self._graph = graph
        self._ropes = distinct_ropes(spec)
        self._masks: dict[int, str] = {}
        graph.input("pad_idx", ["B", "S"], "int64")
        graph.input("unpad_idx", ["T"], "int64")
        graph.input("write_idx", ["T", 1], "int64")
        graph.input("read_idx", ["B", "L"], "int64")
        graph.input("query_pos", ["B", 1, "S", 1])
        graph.input("key_pos", [1, 1, 1, "L"])
        for index in range(len(self._ropes)):
            graph.input(f"cos_{index}", ["T", 1, spec.head_dim // 2])
            graph.input(f"sin_{index}", ["T", 1, spec.head_dim // 2])

    def record(self, qkv: str, layer: int) -> str:
        spec, graph = self._spec, self._graph
        sizes = graph.ints(spec.q_size, spec.kv_size, spec.kv_size)
        q, k, v = graph.nodes("Split", [qkv, sizes], 3, axis=-1)
        keys = self._cached(self._rotated(k, layer), "k", layer)
        values = self._cached(v, "v", layer)
        # [B, L, kv_heads, head_dim] → [B, kv_heads, head_dim, L] and [B, kv_heads, L, head_dim]
        keys, values = (
            graph.node("Transpose", [keys], perm=[0, 2, 3, 1]),
            graph.node("Transpose", [values], perm=[0, 2, 1, 3]),
        )
        mixed = graph.node("MatMul", [self._shares(self._queries(q, layer), keys, layer), values])
        heads = graph.node("Reshape", [mixed, graph.ints(0, spec.num_heads, -1, spec.head_dim)])
        rows = graph.node("Transpose", [heads], perm=[0, 2, 1, 3])
        flat = graph.node("Reshape", [rows, graph.ints(-1, spec.q_size)])
        return graph.node("Gather", [flat, "unpad_idx"], axis=0)

    def _shares(self, queries: str, keys: str, layer: int) -> str:
        """Softmax of scores `[B, kv_heads, shared * S, L]`."""
        spec, graph = self._spec, self._graph
        scores = graph.node("MatMul", [queries, keys])
        scores = graph.node("Mul", [scores, graph.number(spec.score_scale)])
        if spec.attention_softcap:
            cap = spec.attention_softcap
            capped = graph.node("Tanh", [graph.node("Mul", [scores, graph.number(1 / cap)])])
            scores = graph.node("Mul", [capped, graph.number(cap)])
        by_head = graph.node("Reshape", [scores, graph.ints(0, spec.num_heads, -1, 0)])
        masked = graph.node("Add", [by_head, self._mask(spec.window(layer))])
        shares = graph.node("Softmax", [masked], axis=-1)
        return graph.node("Reshape", [shares, graph.ints(0, spec.num_kv_heads, -1, 0)])

    def _queries(self, q: str, layer: int) -> str:
        """`[B, kv_heads, shared * S, head_dim]`: the heads that share keys one after the other."""
        spec, graph = self._spec, self._graph
        padded = graph.node("Gather", [self._rotated(q, layer), "pad_idx"], axis=0)
        heads = graph.node("Reshape", [padded, graph.ints(0, 0, spec.num_heads, spec.head_dim)])
        turned = graph.node("Transpose", [heads], perm=[0, 2, 1, 3])
        return graph.node("Reshape", [turned, graph.ints(0, spec.num_kv_heads, -1, spec.head_dim)])

    def _rotated(self, x: str, layer: int) -> str:
        """`[T, heads * head_dim]`, half-split order."""
        graph, rope = self._graph, self._ropes.index(self._spec.rope(layer))
        heads = graph.node("Reshape", [x, graph.ints(0, -1, self._spec.head_dim)])
        half = self._spec.head_dim // 2
        first, second = graph.nodes("Split", [heads, graph.ints(half, half)], 2, axis=-1)

        def times(part: str, table: str) -> str:
            return graph.node("Mul", [part, f"{table}_{rope}"])

        turned = [
            graph.node("Sub", [times(first, "cos"), times(second, "sin")]),
            graph.node("Add", [times(second, "cos"), times(first, "sin")]),
        ]
        return graph.node("Reshape", [graph.node("Concat", turned, axis=-1), graph.ints(0, -1)])

    def _cached(self, new: str, name: str, layer: int) -> str:
        """Write new rows, read those of all sequences: `[B, L, kv_heads, head_dim]`."""
        spec, graph = self._spec, self._graph
        past = graph.input(f"p{name}_{layer}", ["N", spec.kv_size])
        present = graph.output(f"{name}_{layer}", ["N", spec.kv_size])
        graph.named("ScatterND", [past, "write_idx", new], [present])
        rows = graph.node("Gather", [present, "read_idx"], axis=0)
        return graph.node("Reshape", [rows, graph.ints(0, 0, spec.num_kv_heads, spec.head_dim)])

    def _mask(self, window: int) -> str:
        """`[B, 1, S, L]`: 0 where the key is seen, very negative where not. Positions are whole numbers."""
        if window not in self._masks:
            graph = self._graph
            hidden = graph.node("Relu", [graph.node("Sub", ["key_pos", "query_pos"])])  # tokens that it lies ahead
            if window:
                behind = graph.node("Sub", [graph.node("Sub", ["query_pos", "key_pos"]), graph.number(window - 1.0)])
                hidden = graph.node("Add", [hidden, graph.node("Relu", [behind])])
            self._masks[window] = graph.node("Mul", [hidden, graph.number(-_FAR)])
        return self._masks[window]
