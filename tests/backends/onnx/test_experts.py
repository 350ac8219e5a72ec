"""Mixtures of experts: quantized ones, many of them, and rules of choosing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from backends.api import LoadableModel
from backends.loading import open_model
from backends.models.shapes import expected_shapes
from backends.testing.models import ModelSizes, make_random_model, write_gguf_of
from backends.testing.oracle import Oracle
from backends.weights.tensor import StoredTensor
from tests.backends.onnx.drive import Part, make_runner, run

TOKENS = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77, 18, 400]
EXACT, FAST = 1e-4, 3e-2


def mixture(folder: Path, *, experts: int = 4, each: int = 2) -> Path:
    sizes = ModelSizes(
        num_layers=2,
        hidden_size=256,
        ffn_size=256,
        num_heads=4,
        num_kv_heads=2,
        num_experts=experts,
        experts_per_token=each,
    )
    return make_random_model(folder / "mixture", sizes=sizes, family="qwen3_moe", seed=2)


def error_of(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize(("experts", "each"), [(1, 1), (3, 3), (24, 1), (24, 6)])
def test_any_number_of_experts(experts: int, each: int, tmp_path: Path) -> None:
    """Steps are right for one expert, all of them, and more than a step has tokens; most run on no token at all."""
    model = open_model(mixture(tmp_path, experts=experts, each=each))
    expected = Oracle(model).logits(TOKENS)
    runner = make_runner(model)

    chunk = run(runner, Part(0, TOKENS[:9], rows=9))
    single = [run(runner, Part(0, [TOKENS[at]], start=at)) for at in range(9, 12)]

    np.testing.assert_allclose(np.concatenate([chunk, *single]), expected, atol=1e-4)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_weights_may_keep_their_sum(normalized: bool, activation: str, tmp_path: Path) -> None:
    """Made one or left as softmax gave them; with either activation."""
    model = open_model(mixture(tmp_path))
    spec = msgspec.structs.replace(model.spec, normalized_experts=normalized, activation=activation)
    model = LoadableModel(spec=spec, tensors=model.tensors)

    logits = run(make_runner(model), Part(0, TOKENS, rows=12))

    np.testing.assert_allclose(logits, Oracle(model).logits(TOKENS), atol=1e-4)


@pytest.mark.usefixtures("operators")
def test_equal_router_weights_take_the_lower_expert(tmp_path: Path) -> None:
    """A router of zeros: experts 0 and 1 for every token, as in the reference."""
    model = open_model(mixture(tmp_path))
    tensors = dict(model.tensors)
    for layer in range(2):
        name = f"layers.{layer}.router"
        tensors[name] = StoredTensor(name, "F32", (4, 256), np.zeros((4, 1024), np.uint8))
    model = LoadableModel(spec=model.spec, tensors=tensors)

    logits = run(make_runner(model), Part(0, TOKENS, rows=12))

    np.testing.assert_allclose(logits, Oracle(model).logits(TOKENS), atol=1e-4)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_quantized_experts(name: str, tmp_path: Path) -> None:
    """Blocks compute what they stand for; rounded activations may turn the choice only where it was close."""
    model = open_model(write_gguf_of(mixture(tmp_path), tmp_path / "mixture.gguf", name))
    expected = Oracle(model).logits(TOKENS)

    exact = run(make_runner(model, exact=True), Part(0, TOKENS, rows=12))
    fast = run(make_runner(model), Part(0, TOKENS, rows=12))

    assert error_of(exact, expected) < EXACT
    assert np.median([error_of(*rows) for rows in zip(fast, expected, strict=True)]) < FAST


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_quantized_experts_without_a_choice(name: str, tmp_path: Path) -> None:
    """Every row is as close as in any other model when all experts count, cut up or not."""
    model = open_model(write_gguf_of(mixture(tmp_path, each=4), tmp_path / "mixture.gguf", name))
    expected = Oracle(model).logits(TOKENS)
    runner = make_runner(model)

    logits = np.concatenate([run(runner, Part(0, TOKENS[:11], rows=11)), run(runner, Part(0, TOKENS[11:], start=11))])

    for row, expected_row in zip(logits, expected, strict=True):
        assert error_of(row, expected_row) < FAST


@pytest.mark.usefixtures("operators")
def test_experts_of_mixed_formats(tmp_path: Path) -> None:
    """One expert's gate and up differ in format, another is not quantized at all."""
    model = open_model(mixture(tmp_path))
    quantized = open_model(write_gguf_of(tmp_path / "mixture", tmp_path / "q.gguf", "Q4_1")).tensors
    tensors = dict(model.tensors)
    for name in ("0.gate", "1.down", "2.gate", "2.up", "2.down"):
        tensors[f"layers.1.experts.{name}"] = quantized[f"layers.1.experts.{name}"]
    model = LoadableModel(spec=model.spec, tensors=tensors)

    logits = run(make_runner(model), Part(0, TOKENS, rows=12))

    assert error_of(logits, Oracle(model).logits(TOKENS)) < FAST


@pytest.mark.usefixtures("operators")
def test_experts_are_counted_in_the_weights(tmp_path: Path) -> None:
    """Every expert's bytes, not only those of the chosen."""
    model = open_model(mixture(tmp_path))
    shapes = expected_shapes(model.spec)

    info = make_runner(model).load(model, lambda _: None)

    matrices = sum(4 * int(np.prod(shape)) for name, shape in shapes.items() if len(shape) == 2 and name != "embed")
    routers = sum(4 * int(np.prod(shape)) for name, shape in shapes.items() if name.endswith("router"))
    assert info.weight_bytes == matrices - routers
