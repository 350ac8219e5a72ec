"""Which tensors a model has, and their shapes: the list of `backends.weights.tensor`, derived from the spec."""

from __future__ import annotations

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
    shapes: Shapes = {
        "attn_norm": (spec.hidden_size,),
        "q": (spec.q_size, spec.hidden_size),
        "k": (spec.kv_size, spec.hidden_size),
        "v": (spec.kv_size, spec.hidden_size),
        "o": (spec.hidden_size, spec.q_size),
        "mlp_norm": (spec.hidden_size,),
        "gate": (spec.ffn_size, spec.hidden_size),
        "up": (spec.ffn_size, spec.hidden_size),
        "down": (spec.hidden_size, spec.ffn_size),
    }
    if spec.qkv_bias:
        shapes |= {"q.bias": (spec.q_size,), "k.bias": (spec.kv_size,), "v.bias": (spec.kv_size,)}
    if spec.qk_norm:
        shapes |= {"q_norm": (spec.head_dim,), "k_norm": (spec.head_dim,)}
    return shapes
