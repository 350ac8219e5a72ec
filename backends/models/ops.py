"""The coarse operations that a decoder is written over. Each backend implements them once.

They are coarse so that fused kernels fit behind them: merged projections, add and norm in one, attention with rotary
embedding and KV write inside. `Value` is whatever the backend computes with: an array, a lazy array, a node of a graph.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Ops(Protocol[Value]):
    """T tokens of a ragged step, behind `select` R. Weights go by canonical name (`backends.weights.tensor`)."""

    def embed(self) -> Value:
        """Rows of `embed` for the step's tokens: `[T, hidden]`."""
        ...

    def norm(self, hidden: Value, weight: str) -> Value:
        """RMSNorm over the last axis."""
        ...

    def add(self, branch: Value, residual: Value) -> Value:
        """branch + residual; `branch` is not used afterwards."""
        ...

    def add_norm(self, branch: Value, residual: Value, weight: str) -> tuple[Value, Value]:
        """(RMSNorm of branch + residual, branch + residual); `branch` is not used afterwards."""
        ...

    def scale(self, x: Value, factor: float) -> Value:
        """x * factor."""
        ...

    def softcap(self, x: Value, cap: float) -> Value:
        """cap * tanh(x / cap)."""
        ...

    def linear(self, x: Value, names: tuple[str, ...]) -> Value:
        """x @ Wᵀ (+ bias where the model has one) for weights side by side: `[T, sum of outputs]`."""
        ...

    def attention(self, qkv: Value, layer: int) -> Value:
        """Causal attention of the step's tokens over their sequences' KV, `[T, heads * head_dim]`.

        `qkv` is `[T, (heads + 2 kv_heads) * head_dim]`. In this order: the norms of queries and keys if the spec has
        them (`q_norm`, `k_norm`), rotary by `spec.rope(layer)`, new keys and values written to the layer's KV, scores
        times `spec.score_scale`, `spec.attention_softcap`, the mask of `spec.window(layer)`, softmax.
        """
        ...

    def select(self, x: Value) -> Value:
        """Rows whose logits the step needs: `[T, n]` → `[R, n]`.

        Behind the last attention no token needs another, so from there on only these rows are computed.
        """
        ...

    def gated(self, gate_up: Value) -> Value:
        """activation(gate) * up of `[T, 2 ffn]`, gate first: `[T, ffn]`; the activation is `spec.activation`."""
        ...

    def experts(self, normed: Value, layer: int) -> Value:
        """The MLP of a mixture of experts, `[T, hidden]`.

        A token's weights are softmax(x @ routerᵀ), of which the `spec.experts_per_token` largest count (their sum is
        made one if `spec.normalized_experts`); its output is their weighted sum of down(gated(gate x, up x)).
        """
        ...

    def head(self, normed: Value, name: str, /) -> Value:
        """Logits of selected rows, `[R, hidden]` → `[R, vocab]`."""
        ...
