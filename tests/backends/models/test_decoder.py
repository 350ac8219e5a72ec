"""The decoder over operations that are not of any backend."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from backends.api import F32
from backends.loading import open_model
from backends.models.decoder import forward
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec
from backends.testing.models import FamilyName, make_random_model
from backends.testing.oracle import Oracle

TOKENS = [11, 200, 45, 301, 7, 93]
SPEC = ModelSpec(
    family="any",
    hidden_size=8,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    ffn_size=16,
    vocab_size=32,
    max_context=64,
)


class NameOps:
    """Notes which weights the decoder asks for; values are nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self) -> None:
        self.asked.append("embed")

    def norm(self, hidden: None, weight: str) -> None:
        self.asked.append(weight)

    def add_norm(self, branch: None, residual: None, weight: str) -> tuple[None, None]:
        self.asked.append(weight)
        return None, None

    def linear(self, x: None, names: tuple[str, ...]) -> None:
        self.asked += names

    def attention(self, qkv: None, layer: int) -> None:
        pass

    def gated(self, gate_up: None) -> None:
        pass

    def head(self, normed: None, name: str) -> None:
        self.asked.append(name)


class EagerOps:
    """One sequence from its start, without cache, on NumPy arrays: attention and norms borrowed from the oracle."""

    def __init__(self, oracle: Oracle, tokens: list[int]) -> None:
        self._oracle, self._spec, self._weights, self._tokens = oracle, oracle.spec, oracle._weights, tokens

    def embed(self) -> F32:
        return self._weights["embed"][self._tokens]

    def norm(self, hidden: F32, weight: str) -> F32:
        return self._oracle._rms_norm(hidden, self._weights[weight])

    def add_norm(self, branch: F32, residual: F32, weight: str) -> tuple[F32, F32]:
        total = branch + residual
        return self.norm(total, weight), total

    def linear(self, x: F32, names: tuple[str, ...]) -> F32:
        parts = [x @ self._weights[name].T + self._weights.get(f"{name}.bias", np.float32(0)) for name in names]
        return np.concatenate(parts, axis=-1)

    def attention(self, qkv: F32, layer: int) -> F32:
        spec, length = self._spec, len(qkv)
        q, k, v = np.split(qkv, [spec.q_size, spec.q_size + spec.kv_size], axis=-1)
        queries, keys, values = (x.reshape(length, -1, spec.head_dim).transpose(1, 0, 2) for x in (q, k, v))
        if spec.qk_norm:
            queries = self.norm(queries, f"layers.{layer}.q_norm")
            keys = self.norm(keys, f"layers.{layer}.k_norm")
        queries, keys = self._oracle._rotate(queries), self._oracle._rotate(keys)
        shared = spec.num_heads // spec.num_kv_heads
        scores = queries @ np.repeat(keys, shared, axis=0).transpose(0, 2, 1) / np.sqrt(np.float32(spec.head_dim))
        weights = np.exp(np.where(np.tri(length, dtype=bool), scores, np.float32(-1e9)))
        mixed = weights / weights.sum(axis=-1, keepdims=True) @ np.repeat(values, shared, axis=0)
        attended: F32 = mixed.transpose(1, 0, 2).reshape(length, -1)
        return attended

    def gated(self, gate_up: F32) -> F32:
        gate, up = np.split(gate_up, 2, axis=-1)
        gated: F32 = gate / (1 + np.exp(-gate)) * up
        return gated

    def head(self, normed: F32, name: str) -> F32:
        logits: F32 = normed[-1:] @ self._weights[name].T
        return logits


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_is_asked_for_once(tied: bool) -> None:
    """No tensor of the canonical list is forgotten or used twice, but for a tied head."""
    spec = msgspec.structs.replace(SPEC, tied_head=tied)
    ops = NameOps()

    forward(spec, ops)

    assert sorted(ops.asked) == sorted([*expected_shapes(spec), *(["embed"] if tied else [])])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_eager_operations_give_the_oracles_logits(tmp_path: Path, family: FamilyName) -> None:
    """The same decoder computes at once with arrays; biases and head norms are matters of the operations."""
    oracle = Oracle(open_model(make_random_model(tmp_path / family, family=family)))

    logits = forward(oracle.spec, EagerOps(oracle, TOKENS))

    np.testing.assert_allclose(logits[0], oracle.logits(TOKENS)[-1], atol=1e-4)
