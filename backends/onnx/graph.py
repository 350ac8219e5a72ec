"""Records the decoder into one ONNX graph that serves every step: decode, chunk, verify and mixtures of them.

Linears run on the packed T rows of all sequences; padding to [B, S] exists only around attention, because
`GroupQueryAttention` wants it. Inputs and outputs:

    embedded [T, hidden] f32 · sel [R] i64 · pad_idx [B * S], unpad_idx [T] i64 · qkv_shape [3] i64
    cos, sin [C, head_dim / 2] f32 · total [] i32 = C, the tokens that a slot holds
    seqlens [B] i32 = KV length after the step - 1, qsl [B] i32 = new tokens of a row, 0 if idle
    pk_i, pv_i [B, kv_heads, C, head_dim] f32, bound to the same memory as the outputs k_i, v_i
    logits [R, vocab] f32
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from backends.models.spec import ModelSpec
from backends.onnx.linears import Packed, Weights

_OPSET, _IR_VERSION = 21, 10
_INLINE_BYTES = 1024
_ONNX_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}

Array = npt.NDArray[np.generic]


class Recorder:
    """`Ops` over names of graph values. `initializers` are handed to the session beside the graph, not inside it."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self._spec = spec
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._inline: list[onnx.TensorProto] = []
        self._sums: dict[tuple[str, int], str] = {}
        self._counter = count()
        self._known: set[str] = set()
        self.initializers: dict[str, Array] = {}

    def embed(self) -> str:
        return "embedded"

    def norm(self, hidden: str, weight: str) -> str:
        inputs = [hidden, self._vector(weight)]
        return self._node("SimplifiedLayerNormalization", inputs, axis=-1, epsilon=self._spec.rms_norm_eps)

    def add_norm(self, branch: str, residual: str, weight: str) -> tuple[str, str]:
        normed, total = self._name("norm"), self._name("sum")
        node = helper.make_node(
            "SkipSimplifiedLayerNormalization",
            [branch, residual, self._vector(weight)],
            [normed, "", "", total],
            domain="com.microsoft",
            epsilon=self._spec.rms_norm_eps,
        )
        self._nodes.append(node)
        return normed, total

    def linear(self, x: str, names: tuple[str, ...]) -> str:
        parts = [self._product(x, packed) for packed in self._weights.linears(names)]
        y = parts[0] if len(parts) == 1 else self._node("Concat", parts, axis=-1)
        bias = self._weights.bias(names)
        return y if bias is None else self._node("Add", [y, self._constant(f"{names[0]}.bias", bias)])

    def attention(self, qkv: str, layer: int) -> str:
        if self._spec.qk_norm:
            qkv = self._normed_heads(qkv, layer)
        padded = self._node("Reshape", [self._node("Gather", [qkv, "pad_idx"], axis=0), "qkv_shape"])
        attended = self._name("attended")
        past = [f"pk_{layer}", f"pv_{layer}", "seqlens", "total", "cos", "sin"]
        node = helper.make_node(
            "GroupQueryAttention",
            [padded, "", "", *past, *[""] * 7, "qsl"],
            [attended, f"k_{layer}", f"v_{layer}"],
            domain="com.microsoft",
            num_heads=self._spec.num_heads,
            kv_num_heads=self._spec.num_kv_heads,
            do_rotary=1,
        )
        self._nodes.append(node)
        rows = self._node("Reshape", [attended, self._shape(-1, self._spec.q_size)])
        return self._node("Gather", [rows, "unpad_idx"], axis=0)

    def gated(self, gate_up: str) -> str:
        gate, up = self._split(gate_up, (self._spec.ffn_size, self._spec.ffn_size))
        return self._node("Mul", [self._node("QuickGelu", [gate], domain="com.microsoft", alpha=1.0), up])

    def head(self, normed: str, name: str) -> str:
        return self.linear(self._node("Gather", [normed, "sel"], axis=0), (name,))

    def model(self, logits: str) -> onnx.ModelProto:
        """The finished model; every large array is external and named in `initializers`."""
        self._nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        graph = helper.make_graph(self._nodes, "decoder", self._inputs(), self._outputs(), self._inline)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _product(self, x: str, packed: Packed) -> str:
        if packed.bits is None:
            return self._node("MatMul", [x, self._constant(packed.name, packed.data)])
        assert packed.scales is not None
        inputs = [x, self._constant(packed.name, packed.data), self._constant(f"{packed.name}.scales", packed.scales)]
        y = self._node(
            "MatMulNBits",
            inputs,
            domain="com.microsoft",
            K=packed.columns,
            N=packed.rows,
            bits=packed.bits,
            block_size=packed.group,
            accuracy_level=4,
        )
        if packed.offsets is None:
            return y
        offsets = self._constant(f"{packed.name}.offsets", packed.offsets)
        return self._node("Gemm", [self._block_sums(x, packed), offsets, y])

    def _block_sums(self, x: str, packed: Packed) -> str:
        """Sums of x over groups `[T, K / group]`, shared by all linears with the same input."""
        key = (x, packed.group)
        if key not in self._sums:
            groups = self._node("Reshape", [x, self._shape(-1, packed.columns // packed.group, packed.group)])
            self._sums[key] = self._node("ReduceSum", [groups, self._shape(2)], keepdims=0)
        return self._sums[key]

    def _normed_heads(self, qkv: str, layer: int) -> str:
        spec = self._spec
        q, k, v = self._split(qkv, (spec.q_size, spec.kv_size, spec.kv_size))
        heads = [self._normed(q, f"layers.{layer}.q_norm", spec.num_heads)]
        heads.append(self._normed(k, f"layers.{layer}.k_norm", spec.num_kv_heads))
        return self._node("Concat", [*heads, v], axis=-1)

    def _normed(self, x: str, weight: str, heads: int) -> str:
        size = self._spec.head_dim
        normed = self.norm(self._node("Reshape", [x, self._shape(-1, heads, size)]), weight)
        return self._node("Reshape", [normed, self._shape(-1, heads * size)])

    def _split(self, x: str, sizes: tuple[int, ...]) -> list[str]:
        outputs = [self._name("part") for _ in sizes]
        self._nodes.append(helper.make_node("Split", [x, self._shape(*sizes)], outputs, axis=-1))
        return outputs

    def _node(self, kind: str, inputs: Sequence[str], *, domain: str = "", **attributes: int | float) -> str:
        output = self._name(kind)
        self._nodes.append(helper.make_node(kind, list(inputs), [output], None, None, domain, None, **attributes))
        return output

    def _name(self, kind: str) -> str:
        return f"{kind}_{next(self._counter)}"

    def _vector(self, name: str) -> str:
        return self._constant(name, self._weights.vector(name))

    def _shape(self, *sizes: int) -> str:
        return self._constant("shape_" + "_".join(map(str, sizes)), np.array(sizes, np.int64))

    def _constant(self, name: str, array: Array) -> str:
        if name in self._known:
            return name
        self._known.add(name)
        if array.nbytes <= _INLINE_BYTES:
            self._inline.append(onnx.numpy_helper.from_array(array, name))
            return name
        tensor = TensorProto(name=name, data_type=_ONNX_TYPES[array.dtype.name], dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "memory"), ("offset", "0"), ("length", str(array.nbytes))):
            tensor.external_data.add(key=key, value=value)
        self._inline.append(tensor)
        self.initializers[name] = array
        return name

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        def value(name: str, shape: list[str | int], kind: int = TensorProto.INT64) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, shape)

        return [
            value("embedded", ["T", self._spec.hidden_size], TensorProto.FLOAT),
            value("sel", ["R"]),
            value("pad_idx", ["P"]),
            value("unpad_idx", ["T"]),
            value("qkv_shape", [3]),
            value("seqlens", ["B"], TensorProto.INT32),
            value("total", [], TensorProto.INT32),
            value("qsl", ["B"], TensorProto.INT32),
            value("cos", ["C", self._spec.head_dim // 2], TensorProto.FLOAT),
            value("sin", ["C", self._spec.head_dim // 2], TensorProto.FLOAT),
            *self._kv("pk", "pv"),
        ]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", self._spec.vocab_size])
        return [*self._kv("k", "v"), logits]

    def _kv(self, *prefixes: str) -> list[onnx.ValueInfoProto]:
        shape: list[str | int] = ["B", self._spec.num_kv_heads, "C", self._spec.head_dim]
        names = [f"{prefix}_{layer}" for layer in range(self._spec.num_layers) for prefix in prefixes]
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
