"""The one decoder: every family is this forward pass with other numbers and switches in its `ModelSpec`."""

from __future__ import annotations

from backends.models.ops import Ops, Value
from backends.models.spec import ModelSpec


def forward(spec: ModelSpec, ops: Ops[Value]) -> Value:
    """Logits of the step's selected rows, `[R, vocab]`."""
    residual = ops.embed()
    normed = ops.norm(residual, "layers.0.attn_norm")
    for layer in range(spec.num_layers):
        attended = _attend(layer, normed, ops)
        normed, residual = ops.add_norm(attended, residual, f"layers.{layer}.mlp_norm")
        transformed = _transform(layer, normed, ops)
        normed, residual = ops.add_norm(transformed, residual, _next_norm(spec, layer))
    return ops.head(normed, "embed" if spec.tied_head else "head")


def _attend(layer: int, normed: Value, ops: Ops[Value]) -> Value:
    qkv = ops.linear(normed, tuple(f"layers.{layer}.{name}" for name in ("q", "k", "v")))
    return ops.linear(ops.attention(qkv, layer), (f"layers.{layer}.o",))


def _transform(layer: int, normed: Value, ops: Ops[Value]) -> Value:
    gate_up = ops.linear(normed, tuple(f"layers.{layer}.{name}" for name in ("gate", "up")))
    return ops.linear(ops.gated(gate_up), (f"layers.{layer}.down",))


def _next_norm(spec: ModelSpec, layer: int) -> str:
    return "final_norm" if layer + 1 == spec.num_layers else f"layers.{layer + 1}.attn_norm"
