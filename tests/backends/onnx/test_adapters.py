"""LoRA adapters on the CPU: several in one batch, on float and quantized weights, against merged weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from backends.api import AdapterWeights, LoadableModel, Runner
from backends.errors import CapacityExceeded
from backends.kernels.library import KernelsUnavailable, load_library
from backends.loading import open_model
from backends.models.shapes import lora_shapes
from backends.onnx import create_runner
from backends.onnx.adapters import MAX_RANK, SLOTS, TARGETS
from backends.quantize import quantize_file
from backends.testing.kit.samples import random_adapter
from backends.testing.models import ModelSizes, make_random_model
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import Part, make_runner, run

SIZES = ModelSizes(num_layers=2, hidden_size=256, ffn_size=512, num_heads=4, num_kv_heads=2, vocab_size=400)
TOKENS = [7, 90, 321, 16, 5, 44, 250]
TOLERANCES = {"F32": 1e-4, "Q8_0": 3e-2, "Q4_0": 3e-2, "Q4_K_M": 3e-2}
"""Relative: with quantized weights, activations are rounded to int8."""


@pytest.fixture(autouse=True)
def _kernels() -> None:
    try:
        load_library()
    except KernelsUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=TOLERANCES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadableModel, float]:
    """A model in a format, `Q4_K_M` with several in one linear, and how near its logits come."""
    folder = make_random_model(tmp_path_factory.mktemp("adapted"), sizes=SIZES)
    if request.param == "F32":
        return open_model(folder), TOLERANCES["F32"]
    path = folder / f"{request.param}.gguf"
    quantize_file(folder, path, format=request.param)
    return open_model(path), TOLERANCES[request.param]


def adapter_of(model: LoadableModel, *, rank: int, seed: int, targets: tuple[str, ...] = TARGETS) -> AdapterWeights:
    return random_adapter(lora_shapes(model.spec, targets), rank=rank, seed=seed)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_many_adapters_in_one_batch(served: tuple[LoadableModel, float]) -> None:
    """Each row as if its adapter were merged; ranks differ, one adapts two linears only, one row has none."""
    model, tolerance = served
    runner = make_runner(model)
    adapters = {
        0: adapter_of(model, rank=3, seed=1),
        5: adapter_of(model, rank=16, seed=2),
        7: adapter_of(model, rank=8, seed=3, targets=("v", "up")),
    }
    for slot, adapter in adapters.items():
        runner.put_adapter(slot, adapter)

    parts = [Part(0, TOKENS, lora=5, rows=2), Part(1, TOKENS[:3]), Part(2, TOKENS, lora=0), Part(3, TOKENS[2:], lora=7)]
    logits = run(runner, *parts)

    plain = Oracle(model)
    expected = [
        *Oracle(model, adapters[5]).logits(TOKENS)[-2:],
        plain.logits(TOKENS[:3])[-1],
        Oracle(model, adapters[0]).logits(TOKENS)[-1],
        Oracle(model, adapters[7]).logits(TOKENS[2:])[-1],
    ]
    for found, wanted in zip(logits, expected, strict=True):
        assert distance(found, wanted) < tolerance
    assert distance(logits[1], plain.logits(TOKENS)[-1]) > 5 * tolerance


def test_company_changes_no_bit(served: tuple[LoadableModel, float]) -> None:
    """A row computes the same alone and with rows of the same adapter, of another, and of none."""
    model, _ = served
    runner = make_runner(model)
    runner.put_adapter(1, adapter_of(model, rank=5, seed=4))
    runner.put_adapter(2, adapter_of(model, rank=9, seed=5))
    alone = run(runner, Part(0, TOKENS, lora=1))

    together = run(runner, Part(1, TOKENS, lora=2), Part(2, TOKENS, lora=1), Part(3, TOKENS), Part(0, TOKENS, lora=1))

    assert np.array_equal(together[1], together[3])
    assert distance(together[1], alone[0]) < 1e-5


def test_dropped_and_replaced(served: tuple[LoadableModel, float]) -> None:
    """A slot without an adapter is the plain model; suspending keeps adapters, loading again forgets them."""
    model, _ = served
    runner = make_runner(model)
    plain = run(runner, Part(0, TOKENS))
    runner.put_adapter(3, adapter_of(model, rank=4, seed=6))
    first = run(runner, Part(0, TOKENS, lora=3))
    runner.suspend()
    runner.resume()

    assert np.array_equal(run(runner, Part(0, TOKENS, lora=3)), first)
    assert not np.array_equal(first, plain)
    runner.put_adapter(3, adapter_of(model, rank=2, seed=7))
    assert not np.array_equal(run(runner, Part(0, TOKENS, lora=3)), first)
    runner.drop_adapter(3)
    assert np.array_equal(run(runner, Part(0, TOKENS, lora=3)), plain)


def test_what_does_not_fit_is_refused(served: tuple[LoadableModel, float]) -> None:
    """Slot, rank, target and shape are named, and what was there stays."""
    model, _ = served
    runner = make_runner(model)
    good = adapter_of(model, rank=4, seed=8)
    runner.put_adapter(0, good)
    before = run(runner, Part(0, TOKENS, lora=0))
    wide = adapter_of(model, rank=MAX_RANK + 1, seed=9)
    foreign = msgspec.structs.replace(good, matrices={"layers.0.router": good.matrices["layers.0.q"]})
    crossed = msgspec.structs.replace(good, matrices={"layers.0.k": good.matrices["layers.0.q"]})

    for slot, adapter, word in (
        (SLOTS, good, "slots"),
        (0, wide, "rank"),
        (0, foreign, "router"),
        (0, crossed, "fit no"),
    ):
        with pytest.raises(CapacityExceeded, match=word):
            runner.put_adapter(slot, adapter)

    assert np.array_equal(run(runner, Part(0, TOKENS, lora=0)), before)


def test_without_kernels_there_are_none(served: tuple[LoadableModel, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Declared as such, and refused with the reason."""
    monkeypatch.setenv("HOSTELRY_KERNELS", "0")
    model, _ = served
    runner: Runner = create_runner(threads=1)
    runner.load(model, lambda _: None)

    assert runner.capabilities().lora_slots == 0
    with pytest.raises(CapacityExceeded, match="kernels"):
        runner.put_adapter(0, adapter_of(model, rank=4, seed=1))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_it_agrees_with_peft(tmp_path: Path) -> None:
    """An adapter as `peft` applies it."""
    folder = make_random_model(tmp_path / "model", sizes=SIZES)
    model = open_model(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = {"q": "q_proj", "v": "v_proj", "down": "down_proj"}
    config = LoraConfig(r=4, lora_alpha=12, target_modules=list(names.values()), init_lora_weights=False)
    adapted = get_peft_model(base, config).eval()
    state = {key: value.detach().numpy() for key, value in adapted.state_dict().items() if "lora_" in key}
    matrices = {}
    for layer in range(SIZES.num_layers):
        for target, theirs in names.items():
            (a,) = (v for k, v in state.items() if f"layers.{layer}." in k and theirs in k and "lora_A" in k)
            (b,) = (v for k, v in state.items() if f"layers.{layer}." in k and theirs in k and "lora_B" in k)
            matrices[f"layers.{layer}.{target}"] = (a, b)
    runner = make_runner(model)
    runner.put_adapter(0, AdapterWeights(rank=4, scale=12 / 4, matrices=matrices))

    logits = run(runner, Part(0, TOKENS, lora=0))

    with torch.no_grad():
        expected = adapted(torch.tensor([TOKENS])).logits[0, -1].numpy()
    np.testing.assert_allclose(logits[0], expected, atol=2e-4)
