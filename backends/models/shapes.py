"""Tensors of a model, their shapes, and which of them the decoder uses."""

from __future__ import annotations

from collections.abc import Iterable

from backends.models.decoder import forward
from backends.models.spec import ModelSpec

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(spec: ModelSpec) -> Shapes:
    """Canonical tensor name → logical shape, for every tensor that `spec` implies."""
    shapes: Shapes = {"embed": (spec.vocab_size, spec.hidden_size), "final_norm": (spec.hidden_size,)}
    if not spec.tied_head:
        shapes["head"] = (spec.vocab_size, spec.hidden_size)
    layer = _layer_shapes(spec)
    for index in range(spec.num_layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer_shapes(spec: ModelSpec) -> Shapes:
    return (
        _norm_shapes(spec) | _attention_shapes(spec) | (_expert_shapes(spec) if spec.num_experts else _mlp_shapes(spec))
    )


def _norm_shapes(spec: ModelSpec) -> Shapes:
    before = ("attn_norm", "mlp_norm") if spec.pre_norm else ()
    after = ("attn_post_norm", "mlp_post_norm") if spec.post_norm else ()
    return dict.fromkeys((*before, *after), (spec.hidden_size,))


def _attention_shapes(spec: ModelSpec) -> Shapes:
    shapes: Shapes = {
        "q": (spec.q_size, spec.hidden_size),
        "k": (spec.kv_size, spec.hidden_size),
        "v": (spec.kv_size, spec.hidden_size),
        "o": (spec.hidden_size, spec.q_size),
    }
    if spec.qkv_bias:
        shapes |= {"q.bias": (spec.q_size,), "k.bias": (spec.kv_size,), "v.bias": (spec.kv_size,)}
    if spec.qk_norm:
        shapes |= {"q_norm": (spec.head_dim,), "k_norm": (spec.head_dim,)}
    if spec.qk_norm_whole:
        shapes |= {"q_norm": (spec.q_size,), "k_norm": (spec.kv_size,)}
    return shapes


def _mlp_shapes(spec: ModelSpec) -> Shapes:
    wide = (spec.ffn_size, spec.hidden_size)
    return {"gate": wide, "up": wide, "down": (spec.hidden_size, spec.ffn_size)}


def _expert_shapes(spec: ModelSpec) -> Shapes:
    shapes: Shapes = {"router": (spec.num_experts, spec.hidden_size)}
    for expert in range(spec.num_experts):
        shapes |= {f"experts.{expert}.{name}": shape for name, shape in _mlp_shapes(spec).items()}
    return shapes


def lora_shapes(spec: ModelSpec, targets: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Canonical name → (output, input) features of the linears of each layer among `targets`, such as `q` or `down`."""
    shapes = expected_shapes(spec)
    names = [f"layers.{layer}.{target}" for layer in range(spec.num_layers) for target in targets]
    return {name: (shapes[name][0], shapes[name][1]) for name in names if name in shapes}


class Inventory:
    """Ops that compute nothing and note the names: linears as they are merged, and norms."""

    def __init__(self, spec: ModelSpec) -> None:
        self.linears: list[tuple[str, ...]] = []
        self.norms: list[str] = []
        self._num_experts = spec.num_experts
        forward(spec, self)

    def embed(self) -> None: ...

    def norm(self, hidden: None, weight: str) -> None:
        del hidden
        self.norms.append(weight)

    def add(self, branch: None, residual: None) -> None: ...

    def add_norm(self, branch: None, residual: None, weight: str) -> tuple[None, None]:
        del branch, residual
        self.norms.append(weight)
        return None, None

    def scale(self, x: None, factor: float) -> None: ...

    def softcap(self, x: None, cap: float) -> None: ...

    def linear(self, x: None, names: tuple[str, ...]) -> None:
        del x
        self.linears.append(names)

    def attention(self, qkv: None, layer: int) -> None: ...

    def select(self, x: None) -> None: ...

    def gated(self, gate_up: None) -> None: ...

    def experts(self, normed: None, layer: int) -> None:
        self.linear(normed, (f"layers.{layer}.router",))
        for expert in range(self._num_experts):
            prefix = f"layers.{layer}.experts.{expert}"
            self.linear(normed, (f"{prefix}.gate", f"{prefix}.up"))
            self.linear(normed, (f"{prefix}.down",))

    def head(self, normed: None, name: str) -> None:
        self.linear(normed, (name,))
