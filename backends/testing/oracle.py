"""The plain reference: a float32 forward pass in NumPy, without KV cache, batching or any code of the runners.

Slow and short on purpose. Everything fast is compared with it.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import numpy.typing as npt

from backends.api import LoadableModel
from backends.weights.decode import decode

F32 = npt.NDArray[np.float32]


class Oracle:
    """Logits and greedy continuations of one model, from its decoded weights."""

    def __init__(self, model: LoadableModel) -> None:
        self.spec = model.spec
        self._weights = {name: decode(model.tensors[name]) for name in model.tensors}

    def logits(self, token_ids: list[int]) -> F32:
        """float32 `[T, vocab]`: row t predicts the token after `token_ids[t]`."""
        x = self._weights["embed"][token_ids]
        for layer in range(self.spec.num_layers):
            x = x + self._attention(x, f"layers.{layer}.")
            x = x + self._mlp(x, f"layers.{layer}.")
        head = self._weights["embed" if self.spec.tied_head else "head"]
        logits: F32 = self._rms_norm(x, self._weights["final_norm"]) @ head.T
        return logits

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        """The most likely continuation, token by token; end tokens do not end it."""
        return self.greedy_with_gaps(prompt, num_tokens)[0]

    def greedy_with_gaps(self, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
        """Continuation, and at each step how far the best logit lies above the second."""
        tokens, gaps = list(prompt), []
        for _ in range(num_tokens):
            row = self.logits(tokens)[-1]
            second, best = np.partition(row, -2)[-2:]
            gaps.append(float(best - second))
            tokens.append(int(row.argmax()))
        return tokens[len(prompt) :], gaps

    def _attention(self, x: F32, prefix: str) -> F32:
        spec, normed = self.spec, self._rms_norm(x, self._weights[prefix + "attn_norm"])
        q = self._heads(normed, prefix + "q", spec.num_heads)
        k = self._heads(normed, prefix + "k", spec.num_kv_heads)
        v = self._heads(normed, prefix + "v", spec.num_kv_heads)
        if spec.qk_norm:
            q = self._rms_norm(q, self._weights[prefix + "q_norm"])
            k = self._rms_norm(k, self._weights[prefix + "k_norm"])
        shared = spec.num_heads // spec.num_kv_heads
        k, v = np.repeat(self._rotate(k), shared, axis=0), np.repeat(v, shared, axis=0)
        scores = self._rotate(q) @ k.transpose(0, 2, 1) / np.float32(math.sqrt(spec.head_dim))
        scores = np.where(np.tri(len(x), dtype=bool), scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ v).transpose(1, 0, 2).reshape(len(x), -1)
        attended: F32 = mixed @ self._weights[prefix + "o"].T
        return attended

    def _heads(self, x: F32, name: str, count: int) -> F32:
        """`[T, hidden]` → `[count, T, head_dim]`."""
        y = x @ self._weights[name].T + self._weights.get(f"{name}.bias", np.float32(0))
        heads: F32 = y.reshape(len(x), count, self.spec.head_dim).transpose(1, 0, 2)
        return heads

    def _mlp(self, x: F32, prefix: str) -> F32:
        normed = self._rms_norm(x, self._weights[prefix + "mlp_norm"])
        gate = normed @ self._weights[prefix + "gate"].T
        with np.errstate(over="ignore"):  # exp of a very negative gate: the product is 0 either way
            gated = gate / (1 + np.exp(-gate)) * (normed @ self._weights[prefix + "up"].T)
        transformed: F32 = gated @ self._weights[prefix + "down"].T
        return transformed

    def _rms_norm(self, x: F32, weight: F32) -> F32:
        scale = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(self.spec.rms_norm_eps))
        normed: F32 = x * scale * weight
        return normed

    def _rotate(self, x: F32) -> F32:
        """Half-split rotary embedding of `[heads, T, head_dim]` at positions 0…T-1."""
        angles = np.arange(x.shape[1])[:, None] * self._frequencies[None]
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    @cached_property
    def _frequencies(self) -> npt.NDArray[np.float64]:
        half = self.spec.head_dim // 2
        plain = [self.spec.rope_theta ** (-i / half) for i in range(half)]
        return np.array([self._scaled(frequency) for frequency in plain])

    def _scaled(self, frequency: float) -> float:
        """Linear, or the blend of "The Llama 3 Herd of Models": long waves slowed, short ones kept."""
        scaling = self.spec.rope_scaling
        if scaling is None:
            return frequency
        if scaling.kind == "linear":
            return frequency / scaling.factor
        turns = scaling.original_context * frequency / (2 * math.pi)
        smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        smooth = min(1.0, max(0.0, smooth))
        return (1 - smooth) * frequency / scaling.factor + smooth * frequency
