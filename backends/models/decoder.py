"""The one decoder: every family is this forward pass with other numbers and switches in its `ModelSpec`."""

from __future__ import annotations

from backends.models.ops import Ops, Value
from backends.models.spec import ModelSpec


def forward(spec: ModelSpec, ops: Ops[Value]) -> Value:
    """Logits of the step's selected rows, `[R, vocab]`."""
    residual = ops.embed()
    if spec.embedding_scale != 1.0:
        residual = ops.scale(residual, spec.embedding_scale)
    normed = ops.norm(residual, "layers.0.attn_norm") if spec.pre_norm else residual
    for layer in range(spec.num_layers):
        attended = _mix(layer, normed, ops)
        if layer + 1 == spec.num_layers:
            attended, residual = ops.select(attended), ops.select(residual)
        attended = ops.linear(attended, (f"layers.{layer}.o",))
        attended = _post_norm(spec, ops, attended, f"layers.{layer}.attn_post_norm")
        normed, residual = _join(ops, attended, residual, f"layers.{layer}.mlp_norm" if spec.pre_norm else None)
        transformed = _post_norm(spec, ops, _transform(spec, layer, normed, ops), f"layers.{layer}.mlp_post_norm")
        normed, residual = _join(ops, transformed, residual, _next_norm(spec, layer))
    logits = ops.head(normed, "embed" if spec.tied_head else "head")
    return ops.softcap(logits, spec.final_softcap) if spec.final_softcap else logits


def _mix(layer: int, normed: Value, ops: Ops[Value]) -> Value:
    qkv = ops.linear(normed, tuple(f"layers.{layer}.{name}" for name in ("q", "k", "v")))
    return ops.attention(qkv, layer)


def _transform(spec: ModelSpec, layer: int, normed: Value, ops: Ops[Value]) -> Value:
    if spec.num_experts:
        return ops.experts(normed, layer)
    gate_up = ops.linear(normed, (f"layers.{layer}.gate", f"layers.{layer}.up"))
    return ops.linear(ops.gated(gate_up), (f"layers.{layer}.down",))


def _post_norm(spec: ModelSpec, ops: Ops[Value], branch: Value, weight: str) -> Value:
    return ops.norm(branch, weight) if spec.post_norm else branch


def _join(ops: Ops[Value], branch: Value, residual: Value, norm: str | None) -> tuple[Value, Value]:
    """(What the next linear takes, the residual stream): the same where no norm lies between them."""
    if norm is not None:
        return ops.add_norm(branch, residual, norm)
    total = ops.add(branch, residual)
    return total, total


def _next_norm(spec: ModelSpec, layer: int) -> str | None:
    if layer + 1 == spec.num_layers:
        return "final_norm"
    return f"layers.{layer + 1}.attn_norm" if spec.pre_norm else None
