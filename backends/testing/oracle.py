"""The plain reference: a float32 forward pass in NumPy, without KV cache, batching or any code of the runners.

Slow and short on purpose. Everything fast is compared with it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from backends.api import AdapterWeights, LoadableModel
from backends.models.spec import Rope
from backends.weights.tensor import decode

F32 = npt.NDArray[np.float32]


class Oracle:
    """Logits and greedy continuations of one model, from its decoded weights, with an adapter merged if given."""

    def __init__(self, model: LoadableModel, adapter: AdapterWeights | None = None) -> None:
        self.spec = model.spec
        self._weights = {name: decode(model.tensors[name]) for name in model.tensors}
        for name, (a, b) in (adapter.matrices if adapter else {}).items():
            assert adapter is not None
            self._weights[name] = self._weights[name] + np.float32(adapter.scale) * (b @ a)

    def logits(self, token_ids: list[int]) -> F32:
        """float32 `[T, vocab]`: row t predicts the token after `token_ids[t]`."""
        x = self._weights["embed"][token_ids] * np.float32(self.spec.embedding_scale)
        for layer in range(self.spec.num_layers):
            prefix = f"layers.{layer}."
            x = x + self._after(
                self._attention(self._before(x, prefix + "attn_norm"), layer), prefix + "attn_post_norm"
            )
            x = x + self._after(self._mlp(self._before(x, prefix + "mlp_norm"), prefix), prefix + "mlp_post_norm")
        head = self._weights["embed" if self.spec.tied_head else "head"]
        logits: F32 = self._rms_norm(x, self._weights["final_norm"]) @ head.T
        return _capped(logits, self.spec.final_softcap)

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        """The most likely continuation, token by token; end tokens do not end it."""
        return self.greedy_with_gaps(prompt, num_tokens)[0]

    def greedy_with_gaps(self, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
        """Continuation, and at each step how far the best logit is above the second."""
        tokens, gaps = list(prompt), []
        for _ in range(num_tokens):
            row = self.logits(tokens)[-1]
            second, best = np.partition(row, -2)[-2:]
            gaps.append(float(best - second))
            tokens.append(int(row.argmax()))
        return tokens[len(prompt) :], gaps

    def _before(self, x: F32, norm: str) -> F32:
        return self._rms_norm(x, self._weights[norm]) if self.spec.pre_norm else x

    def _after(self, x: F32, norm: str) -> F32:
        return self._rms_norm(x, self._weights[norm]) if self.spec.post_norm else x

    def _attention(self, x: F32, layer: int) -> F32:
        spec, prefix = self.spec, f"layers.{layer}."
        q, k = self._head_norms(self._projected(x, prefix + "q"), self._projected(x, prefix + "k"), prefix)
        v = self._heads(self._projected(x, prefix + "v"), spec.num_kv_heads)
        q = self._rotate(self._heads(q, spec.num_heads), spec.rope(layer))
        k = self._rotate(self._heads(k, spec.num_kv_heads), spec.rope(layer))
        shared = spec.num_heads // spec.num_kv_heads
        scores = q @ np.repeat(k, shared, axis=0).transpose(0, 2, 1) * np.float32(spec.score_scale)
        scores = np.where(_visible(len(x), spec.window(layer)), _capped(scores, spec.attention_softcap), -np.inf)
        mixed = _softmax(scores.astype(np.float32)) @ np.repeat(v, shared, axis=0)
        attended: F32 = mixed.transpose(1, 0, 2).reshape(len(x), -1) @ self._weights[prefix + "o"].T
        return attended

    def _projected(self, x: F32, name: str) -> F32:
        y: F32 = x @ self._weights[name].T + self._weights.get(f"{name}.bias", np.float32(0))
        return y

    def _head_norms(self, q: F32, k: F32, prefix: str) -> tuple[F32, F32]:
        if not self.spec.qk_norm and not self.spec.qk_norm_whole:
            return q, k
        size = self.spec.head_dim if self.spec.qk_norm else None
        return (self._norm_parts(q, prefix + "q_norm", size), self._norm_parts(k, prefix + "k_norm", size))

    def _norm_parts(self, x: F32, norm: str, size: int | None) -> F32:
        parts = x.reshape(len(x), -1, size or x.shape[1])
        return self._rms_norm(parts, self._weights[norm]).reshape(x.shape)

    def _heads(self, x: F32, count: int) -> F32:
        """`[T, count * head_dim]` → `[count, T, head_dim]`."""
        return x.reshape(len(x), count, self.spec.head_dim).transpose(1, 0, 2)

    def _mlp(self, x: F32, prefix: str) -> F32:
        if self.spec.num_experts:
            return self._experts(x, prefix)
        gated = self._activated(x @ self._weights[prefix + "gate"].T) * (x @ self._weights[prefix + "up"].T)
        transformed: F32 = gated @ self._weights[prefix + "down"].T
        return transformed

    def _experts(self, x: F32, prefix: str) -> F32:
        shares = _softmax(x @ self._weights[prefix + "router"].T)
        y = np.zeros_like(x)
        for token, share in enumerate(shares):
            chosen = np.argsort(-share, kind="stable")[: self.spec.experts_per_token]
            whole = share[chosen].sum() if self.spec.normalized_experts else np.float32(1)
            for expert in chosen:
                y[token] += share[expert] / whole * self._expert(x[token], f"{prefix}experts.{expert}.")
        return y

    def _expert(self, x: F32, prefix: str) -> F32:
        gated = self._activated(self._weights[prefix + "gate"] @ x) * (self._weights[prefix + "up"] @ x)
        transformed: F32 = self._weights[prefix + "down"] @ gated
        return transformed

    def _activated(self, x: F32) -> F32:
        if self.spec.activation == "gelu_tanh":
            inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
            gelu: F32 = np.float32(0.5) * x * (1 + np.tanh(inner))
            return gelu
        with np.errstate(over="ignore"):  # exp of a very negative gate: the product is 0 either way
            silu: F32 = x / (1 + np.exp(-x))
        return silu

    def _rms_norm(self, x: F32, weight: F32) -> F32:
        scale = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(self.spec.rms_norm_eps))
        normed: F32 = x * scale * weight
        return normed

    def _rotate(self, x: F32, rope: Rope) -> F32:
        """Half-split rotary embedding of `[heads, T, head_dim]` at positions 0…T-1."""
        half = self.spec.head_dim // 2
        frequencies = np.array([_scaled(rope.theta ** (-i / half), i, rope) for i in range(half)])
        angles = np.arange(x.shape[1])[:, None] * frequencies[None]
        amplitude = rope.scaling.attention_factor if rope.scaling else 1.0
        cos, sin = (amplitude * np.cos(angles)).astype(np.float32), (amplitude * np.sin(angles)).astype(np.float32)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _scaled(frequency: float, index: int, rope: Rope) -> float:
    """Linear, by factors, or the blend of "The Llama 3 Herd of Models": long waves slowed, short ones kept."""
    scaling = rope.scaling
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    if scaling.kind == "factors":
        return frequency / scaling.factors[index]
    turns = scaling.original_context * frequency / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = min(1.0, max(0.0, smooth))
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _visible(length: int, window: int) -> npt.NDArray[np.bool_]:
    """Mask `[T, T]`: true if the token of the row sees that of the column."""
    causal = np.tri(length, dtype=bool)
    return causal & ~np.tri(length, k=-window, dtype=bool) if window else causal


def _capped(x: F32, cap: float) -> F32:
    return np.float32(cap) * np.tanh(x / np.float32(cap)) if cap else x


def _softmax(x: F32) -> F32:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: F32 = weights / weights.sum(axis=-1, keepdims=True)
    return shares
