"""The decoder over operations that are not of any backend."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from backends.loading import open_model
from backends.models.decoder import forward
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec
from backends.testing.models import FAMILY_NAMES, FamilyName, ModelSizes, make_random_model

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

    def add(self, branch: None, residual: None) -> None: ...

    def scale(self, x: None, factor: float) -> None:
        self.asked.append(f"scale {factor}")

    def softcap(self, x: None, cap: float) -> None:
        self.asked.append(f"softcap {cap}")

    def experts(self, normed: None, layer: int) -> None: ...

    def add_norm(self, branch: None, residual: None, weight: str) -> tuple[None, None]:
        self.asked.append(weight)
        return None, None

    def linear(self, x: None, names: tuple[str, ...]) -> None:
        self.asked += names

    def attention(self, qkv: None, layer: int) -> None:
        pass

    def select(self, x: None) -> None: ...

    def gated(self, gate_up: None) -> None:
        pass

    def head(self, normed: None, name: str) -> None:
        self.asked.append(name)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_is_asked_for_once(tmp_path: Path, family: FamilyName, tied: bool) -> None:
    """No matrix or norm around the blocks is forgotten or used twice, but for a tied head.

    Biases, head norms and experts are looked up inside an operation.
    """
    sizes = ModelSizes(num_layers=3, hidden_size=64, ffn_size=64, tied_head=tied)
    spec = open_model(make_random_model(tmp_path / family, sizes=sizes, family=family)).spec
    ops = NameOps()

    forward(spec, ops)

    inner = (".bias", "q_norm", "k_norm", ".router")
    outer = [name for name in expected_shapes(spec) if not name.endswith(inner) and ".experts." not in name]
    asked = [name for name in ops.asked if " " not in name]
    assert sorted(asked) == sorted([*outer, *(["embed"] if tied else [])])


def test_switches_become_operations() -> None:
    """Scaled embeddings and capped logits are asked for where the spec has them, and not otherwise."""
    plain, gemma = NameOps(), NameOps()

    forward(SPEC, plain)
    forward(msgspec.structs.replace(SPEC, embedding_scale=8.0, final_softcap=30.0), gemma)

    assert not {"scale 8.0", "softcap 30.0"} & set(plain.asked)
    assert {"scale 8.0", "softcap 30.0"} <= set(gemma.asked)
