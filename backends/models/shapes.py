"""Which tensors a model has, and their shapes: the list of `backends.weights.tensor`, derived from the spec."""

from __future__ import annotations

from collections.abc import Iterable

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
