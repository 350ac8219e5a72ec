"""The coarse operations that a decoder is written over. Each backend implements them once.

They are coarse so that fused kernels fit behind them: merged projections, add and norm in one, attention with rotary
embedding and KV write inside. `Value` is whatever the backend computes with: an array, a lazy array, a node of a graph.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Ops(Protocol[Value]):
    """T tokens of a ragged step. Weights go by canonical name (`backends.weights.tensor`)."""

    def embed(self) -> Value:
        """Rows of `embed` for the step's tokens: `[T, hidden]`."""
        ...

    def norm(self, hidden: Value, weight: str) -> Value:
        """RMSNorm over the last axis."""
        ...

    def add_norm(self, branch: Value, residual: Value, weight: str) -> tuple[Value, Value]:
        """(RMSNorm of branch + residual, branch + residual)."""
        ...

    def linear(self, x: Value, names: tuple[str, ...]) -> Value:
        """x @ Wᵀ (+ bias where the model has one) for weights side by side: `[T, sum of outputs]`."""
        ...

    def attention(self, qkv: Value, layer: int) -> Value:
        """Causal attention of the step's tokens over their sequences' KV, `[T, heads * head_dim]`.

        `qkv` is `[T, (heads + 2 kv_heads) * head_dim]` before the head norms (if the spec has them) and before rotary;
        new keys and values are written to the layer's KV.
        """
        ...

    def gated(self, gate_up: Value) -> Value:
        """silu(gate) * up of `[T, 2 ffn]`, gate first: `[T, ffn]`."""
        ...

    def head(self, normed: Value, name: str) -> Value:
        """Logits `[R, vocab]` of the rows that the step asks for."""
        ...
