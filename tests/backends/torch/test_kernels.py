"""Quantized weights on the CPU kernels: near the oracle, as large as the file, and said either way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.api import LoadableModel
from backends.kernels.library import KernelsUnavailable, load_library
from backends.loading import open_model
from backends.testing.models import make_random_model, write_gguf_of
from backends.testing.oracle import Oracle
from backends.torch import create_runner
from tests.backends.torch.drive import Part, make_runner, run

TOKENS = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
TOLERANCE = 3e-2
"""Activations are rounded to int8."""


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch: pytest.MonkeyPatch, without_kernels: None) -> None:
    monkeypatch.delenv("HOSTELRY_KERNELS")
    try:
        load_library()
    except KernelsUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=["Q4_0", "Q8_0", "Q5_1"])
def quantized(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> LoadableModel:
    return open_model(write_gguf_of(folder, tmp_path / "model.gguf", request.param))


def test_logits_are_near_the_oracle(quantized: LoadableModel) -> None:
    """Every linear of the model, prefill and single rows."""
    expected = Oracle(quantized).logits(TOKENS)

    runner = make_runner(quantized)
    together = run(runner, Part(0, TOKENS, rows=len(TOKENS)))
    one_by_one = np.concatenate([run(runner, Part(1, [token], start=i)) for i, token in enumerate(TOKENS)])

    assert np.linalg.norm(together - expected) / np.linalg.norm(expected) < TOLERANCE
    assert np.linalg.norm(one_by_one - expected) / np.linalg.norm(expected) < TOLERANCE


def test_the_start_says_what_computes(quantized: LoadableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note with them, a fallback without them, and neither in exact mode."""
    with_them = create_runner(threads=1).load(quantized, lambda _: None)
    exact = create_runner(threads=1, exact=True).load(quantized, lambda _: None)
    monkeypatch.setenv("HOSTELRY_KERNELS", "0")
    without = create_runner(threads=1).load(quantized, lambda _: None)

    assert any("run on Hostelry's kernels, level" in note for note in with_them.notes)
    assert with_them.fallbacks == exact.fallbacks == ()
    assert "slower than Hostelry's kernels: they are switched off" in without.fallbacks[0]


def test_tiles_take_the_place_of_blocks(quantized: LoadableModel) -> None:
    """Only the embedding, whose rows are looked up, keeps its blocks too when it is also the head."""
    matrices = [tensor.data.nbytes for tensor in quantized.tensors.values() if len(tensor.shape) == 2]

    loaded = create_runner(threads=1).load(quantized, lambda _: None)

    assert loaded.weight_bytes <= 1.05 * sum(matrices) + quantized.tensors["embed"].data.nbytes


def test_a_model_of_floats_needs_none(tmp_path: Path) -> None:
    """Nothing is said about kernels that would not be used."""
    model = open_model(make_random_model(tmp_path / "model"))

    loaded = create_runner(threads=1).load(model, lambda _: None)

    assert not [note for note in (*loaded.notes, *loaded.fallbacks) if "kernels" in note]
