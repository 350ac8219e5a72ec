"""Attention as one `GroupQueryAttention` a layer, for the CPU: keys and values are written and read in place.

pad_idx [B * S], unpad_idx [T] i64 · qkv_shape [3] i64 · total [] i32 = C, the tokens that a slot holds
cos_r, sin_r [C, head_dim / 2] f32 for each rotary embedding r
seqlens [B] i32 = KV length after the step - 1, qsl [B] i32 = new tokens of a row, 0 if idle
pk_i, pv_i [B, kv_heads, C, head_dim] f32, bound to the same memory as the outputs k_i, v_i
"""

from __future__ import annotations

from backends.models.spec import ModelSpec
from backends.onnx.attention.rotary_tables import distinct_ropes
from backends.onnx.graph import MICROSOFT, Graph

HEAD_DIM_STEP = 16
"""The operator rotates only heads whose size is a multiple of this."""


class FusedAttention:
    """Declares the inputs and outputs above and records attention layer by layer."""

    def __init__(self, spec: ModelSpec, graph: Graph) -> None:
        self._spec = spec
        self._graph = graph
        self._ropes = distinct_ropes(spec)
        for name, shape in (("pad_idx", "P"), ("unpad_idx", "T"), ("qkv_shape", 3)):
            graph.input(name, [shape], "int64")
        graph.input("total", [], "int32")
        for name in ("seqlens", "qsl"):
            graph.input(name, ["B"], "int32")
        for index in range(len(self._ropes)):
            graph.input(f"cos_{index}", ["C", spec.head_dim // 2])
            graph.input(f"sin_{index}", ["C", spec.head_dim // 2])

    def record(self, qkv: str, layer: int) -> str:
        spec, graph = self._spec, self._graph
        padded = graph.node("Reshape", [graph.node("Gather", [qkv, "pad_idx"], axis=0), "qkv_shape"])
        shape: list[str | int] = ["B", spec.num_kv_heads, "C", spec.head_dim]
        past = [graph.input(f"{name}_{layer}", shape) for name in ("pk", "pv")]
        present = [graph.output(f"{name}_{layer}", shape) for name in ("k", "v")]
        rope = self._ropes.index(spec.rope(layer))
        # Both sides count the token itself, and -1 is no window.
        window = spec.window(layer) or -1
        attended = f"attended_{layer}"
        graph.named(
            "GroupQueryAttention",
            [padded, "", "", *past, "seqlens", "total", f"cos_{rope}", f"sin_{rope}", *[""] * 7, "qsl"],
            [attended, *present],
            domain=MICROSOFT,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            do_rotary=1,
            scale=spec.score_scale,
            softcap=spec.attention_softcap,
            local_window_size=window,
        )
        rows = graph.node("Reshape", [attended, graph.ints(-1, spec.q_size)])
        return graph.node("Gather", [rows, "unpad_idx"], axis=0)
