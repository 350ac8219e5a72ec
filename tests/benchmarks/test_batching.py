"""The arithmetic of `benchmarks.batching`: a ceiling that left a linear out would flatter us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from backends.loading import open_model
from backends.models.spec import ModelSpec
from backends.quantize import quantize_file
from backends.testing.models import make_random_model
from backends.weights.tensor import TensorSource, decode
from benchmarks.batching.fairness import jain
from benchmarks.batching.linears import Linears
from benchmarks.batching.ranks import mann_whitney_p

F32 = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("linears") / "model")


def test_linears_are_all_there(folder: Path) -> None:
    """The graph multiplies by every matrix of the model, in order, and does nothing else."""
    model, x = open_model(folder), _rows(folder)

    found = Linears(folder).logits(x)

    np.testing.assert_allclose(found, _all_linears(model.spec, model.tensors, x), rtol=1e-4, atol=1e-4)


def test_linears_of_a_quantized_model(folder: Path, tmp_path: Path) -> None:
    """Linears of a quantized model run on the kernels that serve it, so that the ceiling is that of the format."""
    path = tmp_path / "Q8_0.gguf"
    quantize_file(folder, path, format="Q8_0", pure=True)

    found = Linears(path).logits(_rows(folder))

    assert found.shape == (3, open_model(folder).spec.vocab_size)
    assert np.isfinite(found).all()
    assert Linears(path).step_s(3) > 0


def test_jain_of_equals() -> None:
    """1 where all have the same, 1/n where one has everything."""
    assert jain([5, 5, 5]) == 1
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)


def test_mann_whitney_knows_one_sample_from_two() -> None:
    """Values from `scipy.stats.mannwhitneyu(method="asymptotic")`."""
    evens, odds = [float(n) for n in range(0, 24, 2)], [float(n) for n in range(1, 24, 2)]

    assert mann_whitney_p(evens, odds) == pytest.approx(0.7508318840891169, rel=1e-9)
    assert mann_whitney_p(evens, [value + 100 for value in odds]) == pytest.approx(3.6584553538971e-05, rel=1e-9)


def _rows(folder: Path) -> F32:
    hidden = open_model(folder).spec.hidden_size
    return np.random.default_rng(1).standard_normal((3, hidden)).astype(np.float32)


def _all_linears(spec: ModelSpec, tensors: TensorSource, x: F32) -> F32:
    def times(x: F32, name: str) -> F32:
        product: F32 = x @ decode(tensors[name]).T
        return product

    for layer in range(spec.num_layers):
        x = times(times(x, f"layers.{layer}.q"), f"layers.{layer}.o")
        x = times(times(x, f"layers.{layer}.gate"), f"layers.{layer}.down")
    return times(x, "embed" if spec.tied_head else "head")
