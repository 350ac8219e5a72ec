"""Records the decoder into one ONNX graph that serves every step: decode, chunk, verify and mixtures of them.

Linears run on the packed T rows of all sequences. Attention, of which there are three, may pad them: `ragged` is our
own on the CPU and does not, `fused` is onnxruntime's there, `plain` is for devices. Other inputs and outputs:

    embedded [T, hidden] f32 · sel [R] i64 → logits [R, vocab] f32
"""

from __future__ import annotations

from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.onnx.adapters import Adapters, number
from backends.onnx.attention.group_query import FusedAttention
from backends.onnx.attention.hostelry_kernel import RaggedAttention
from backends.onnx.attention.portable import PlainAttention
from backends.onnx.experts import record_experts
from backends.onnx.graph import HOSTELRY, MICROSOFT, Graph
from backends.onnx.weights import F32, OnnxWeights, Packed, Tiles

_ACTIVATIONS = {"silu": 1, "gelu_tanh": 2}
"""`enum hk_activation` of kernels.h; 0 is none."""


Attention = type[RaggedAttention] | type[FusedAttention] | type[PlainAttention]


def record(spec: ModelSpec, weights: OnnxWeights, attention: Attention, adapters: Adapters | None = None) -> Graph:
    """The whole decoder as a graph. Raises `UnsupportedModel` for a tensor in a format that is not declared."""
    recorder = Recorder(spec, weights, attention, adapters)
    logits = forward(spec, recorder)
    recorder.graph.named("Identity", [logits], [recorder.graph.output("logits", ["R", spec.vocab_size])])
    return recorder.graph


class Recorder:
    """`Ops` over names of graph values."""

    def __init__(self, spec: ModelSpec, weights: OnnxWeights, attention: Attention, adapters: Adapters | None) -> None:
        self.graph = Graph()
        self._spec = spec
        self._weights = weights
        self._sums: dict[tuple[str, int], str] = {}
        self._multiplied: set[str] = set()
        self.graph.input("embedded", ["T", spec.hidden_size])
        self.graph.input("sel", ["R"], "int64")
        self._attention = attention(spec, self.graph)
        self._adapters = adapters
        self._lora = ""
        if adapters is not None:
            self._lora = self.graph.input("lora", ["T"], "int32")
            self.graph.input("adapters", list(adapters.table.shape), "int64")

    def embed(self) -> str:
        return "embedded"

    def norm(self, hidden: str, weight: str) -> str:
        inputs = [hidden, self._floats(weight)]
        return self.graph.node("SimplifiedLayerNormalization", inputs, axis=-1, epsilon=self._spec.rms_norm_eps)

    def add(self, branch: str, residual: str) -> str:
        return self.graph.node("Add", [branch, residual])

    def add_norm(self, branch: str, residual: str, weight: str) -> tuple[str, str]:
        normed, total = f"{weight}.normed", f"{weight}.sum"
        self.graph.named(
            "SkipSimplifiedLayerNormalization",
            [branch, residual, self._floats(weight)],
            [normed, "", "", total],
            domain=MICROSOFT,
            epsilon=self._spec.rms_norm_eps,
        )
        return normed, total

    def scale(self, x: str, factor: float) -> str:
        return self.graph.node("Mul", [x, self.graph.number(factor)])

    def softcap(self, x: str, cap: float) -> str:
        return self.scale(self.graph.node("Tanh", [self.scale(x, 1 / cap)]), cap)

    def linear(self, x: str, names: tuple[str, ...]) -> str:
        """Gate and up are one operator with what `gated` does, where they can be."""
        gated = self._weights.gated(names)
        if gated is None:
            return self.product(x, names)
        y = self._tiled(x, gated, names=names)
        self._multiplied.add(y)
        return y

    def product(self, x: str, names: tuple[str, ...]) -> str:
        packed = self._weights.linears(names)
        bias = self._weights.bias(names)
        if len(packed) == 1 and isinstance(packed[0], Tiles):
            return self._tiled(x, packed[0], bias, names=names)
        parts = [self._part(x, part) for part in packed]
        y = parts[0] if len(parts) == 1 else self.graph.node("Concat", parts, axis=-1)
        y = y if bias is None else self.graph.node("Add", [y, self.graph.constant(f"{names[0]}.bias", bias)])
        return self._adapted(x, y, names)

    def attention(self, qkv: str, layer: int) -> str:
        if self._spec.qk_norm or self._spec.qk_norm_whole:
            qkv = self._normed_queries_and_keys(qkv, layer)
        return self._attention.record(qkv, layer)

    def select(self, x: str) -> str:
        if self._lora == "lora":  # rows and their adapters go together from here on
            self._lora = self.graph.node("Gather", ["lora", "sel"], axis=0)
        return self.graph.node("Gather", [x, "sel"], axis=0)

    def gated(self, gate_up: str) -> str:
        if gate_up in self._multiplied:
            return gate_up
        gate, up = self._split(gate_up, (self._spec.ffn_size, self._spec.ffn_size))
        if self._spec.activation == "gelu_tanh":
            return self.graph.node("Mul", [self.graph.node("FastGelu", [gate], domain=MICROSOFT), up])
        return self.graph.node("Mul", [self.graph.node("QuickGelu", [gate], domain=MICROSOFT, alpha=1.0), up])

    def experts(self, normed: str, layer: int) -> str:
        router = f"layers.{layer}.router"
        # As float32 whatever its format: it is tiny, and rounding its input could choose other experts.
        router_weight = self.graph.constant(router, self._weights.floats(router).T.copy())
        return record_experts(self, self._spec, normed, layer, router=router_weight)

    def head(self, normed: str, name: str) -> str:
        return self.linear(normed, (name,))

    def _tiled(self, x: str, tiles: Tiles, bias: F32 | None = None, *, names: tuple[str, ...] = ()) -> str:
        inputs = [x, self.graph.share(tiles.name, tiles.data)]
        inputs.append("" if bias is None else self.graph.constant(f"{tiles.name}.bias", bias))
        adapter = self._adapter_of(names)
        if adapter["adapter"] >= 0:
            inputs += ["", self._lora, "adapters"]
        return self.graph.node(
            "QuantizedLinear",
            inputs,
            domain=HOSTELRY,
            format=tiles.ggml_type,
            rows=tiles.rows,
            columns=tiles.columns,
            activation=_ACTIVATIONS[self._spec.activation] if tiles.gated else 0,
            **adapter,
        )

    def _adapted(self, x: str, y: str, names: tuple[str, ...]) -> str:
        adapter = self._adapter_of(names)
        if self._adapters is None or adapter["adapter"] < 0:
            return y
        columns = self._adapters.shapes[names[0]][1]
        inputs = [x, y, self._lora, "adapters"]
        return self.graph.node("LowRankSum", inputs, domain=HOSTELRY, columns=columns, **adapter)

    def _adapter_of(self, names: tuple[str, ...]) -> dict[str, int]:
        """Attributes that name linears side by side in the table of adapters."""
        shapes = self._adapters.shapes if self._adapters else {}
        rows = [shapes[name][0] for name in names if name in shapes]
        is_adapted = bool(rows) and len(rows) == len(names)
        parts = {f"part_{index}": rows[index] if is_adapted and index < len(rows) else 0 for index in range(3)}
        return {"adapter": number(names[0]) if is_adapted else -1, **parts}

    def _part(self, x: str, packed: Packed | Tiles) -> str:
        if isinstance(packed, Tiles):
            return self._tiled(x, packed)
        if packed.bits is None:
            return self.graph.node("MatMul", [x, self.graph.constant(packed.name, packed.data)])
        assert packed.scales is not None
        data = self.graph.constant(packed.name, packed.data)
        y = self.graph.node(
            "MatMulNBits",
            [x, data, self.graph.constant(f"{packed.name}.scales", packed.scales)],
            domain=MICROSOFT,
            K=packed.columns,
            N=packed.rows,
            bits=packed.bits,
            block_size=packed.group,
            accuracy_level=4,
        )
        if packed.offsets is None:
            return y
        offsets = self.graph.constant(f"{packed.name}.offsets", packed.offsets)
        return self.graph.node("Gemm", [self._block_sums(x, packed), offsets, y])

    def _block_sums(self, x: str, packed: Packed) -> str:
        """Sums of x over groups `[T, K / group]`, shared by all linears with the same input."""
        key = (x, packed.group)
        if key not in self._sums:
            shape = self.graph.ints(-1, packed.columns // packed.group, packed.group)
            groups = self.graph.node("Reshape", [x, shape])
            self._sums[key] = self.graph.node("ReduceSum", [groups, self.graph.ints(2)], keepdims=0)
        return self._sums[key]

    def _normed_queries_and_keys(self, qkv: str, layer: int) -> str:
        spec = self._spec
        q, k, v = self._split(qkv, (spec.q_size, spec.kv_size, spec.kv_size))
        normed = [self._normed(q, f"layers.{layer}.q_norm"), self._normed(k, f"layers.{layer}.k_norm")]
        return self.graph.node("Concat", [*normed, v], axis=-1)

    def _normed(self, x: str, weight: str) -> str:
        """Over each head, or over all at once."""
        if self._spec.qk_norm_whole:
            return self.norm(x, weight)
        heads = self.graph.node("Reshape", [x, self.graph.ints(0, -1, self._spec.head_dim)])
        return self.graph.node("Reshape", [self.norm(heads, weight), self.graph.ints(0, -1)])

    def _split(self, x: str, sizes: tuple[int, ...]) -> list[str]:
        return self.graph.nodes("Split", [x, self.graph.ints(*sizes)], len(sizes), axis=-1)

    def _floats(self, name: str) -> str:
        return self.graph.constant(name, self._weights.floats(name))
