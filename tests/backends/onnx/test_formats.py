"""Every declared format, fast and exact, against an fp32 forward over the dequantized weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.api import LoadableModel
from backends.errors import UnsupportedModel
from backends.loading import open_model
from backends.onnx import create_runner
from backends.onnx.weights import FORMATS
from backends.testing.models import write_gguf_of
from backends.testing.oracle import Oracle
from backends.weights.formats import FORMATS as STORED
from backends.weights.integers import SPLITTERS, integers_of
from backends.weights.tensor import StoredTensor, decode
from tests.backends.onnx.drive import Part, make_runner, run

TOKENS = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
EXACT, FAST = 1e-4, 3e-2
"""Relative error of the logits. Fast mode rounds activations to int8 in groups of 32, as llama.cpp does: about 2e-2."""


HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q8_K": ()} | dict.fromkeys(
    ("Q4_1", "Q5_1", "Q8_1", "Q4_K", "Q5_K"), (0, 2)
)
"""Positions of float16 scales in a block, if not at 0."""


def random_tensor(name: str, *, rows: int = 48, columns: int = 512, seed: int = 0) -> StoredTensor:
    """Random bytes are valid blocks; only the scales are tamed, so that no value is infinite."""
    layout = STORED[name]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, layout.bytes_per_row(columns)), dtype=np.uint8)
    blocks = data.reshape(-1, layout.block_bytes)
    for at in HALVES.get(name, (0,)):
        scale = (rng.standard_normal((len(blocks), 1)) * 0.01).astype("<f2")
        blocks[:, at : at + 2] = scale.view(np.uint8)
    if name == "Q8_K":
        blocks[:, :4] = (rng.standard_normal((len(blocks), 1)) * 0.01).astype("<f4").view(np.uint8)
    return StoredTensor("w", name, (rows, columns), data)


@pytest.mark.parametrize("name", SPLITTERS)
def test_integers_stand_for_the_same_values(name: str) -> None:
    """Codes, scales and offsets give back what the format's decoder gives, on random blocks."""
    tensor = random_tensor(name)

    parts = integers_of(tensor)

    grouped = parts.codes.astype(np.float32).reshape(48, -1, parts.group) - (1 << (parts.bits - 1))
    values = parts.scales[:, :, None] * grouped
    if parts.offsets is not None:
        values = values + parts.offsets[:, :, None]
    # A minimum and its centred code cancel: the rounding error is that of the summands.
    np.testing.assert_allclose(values.reshape(48, 512), decode(tensor), rtol=1e-6, atol=1e-6 * np.abs(values).max())
    assert parts.codes.max() < 1 << parts.bits


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1", "Q4_K", "Q5_K"])
def test_a_group_without_scale_keeps_its_minimum(name: str) -> None:
    """Constant groups are stored with scale 0 and a minimum; they are not lost."""
    tensor = random_tensor(name)
    blocks = tensor.data.reshape(-1, STORED[name].block_bytes)
    blocks[:, :2] = 0

    parts = integers_of(tensor)

    assert parts.offsets is not None
    assert not parts.scales.any()
    np.testing.assert_array_equal(np.repeat(parts.offsets, parts.group, axis=1), decode(tensor))


@pytest.fixture(scope="module", params=["F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def quantized(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadableModel:
    path = tmp_path_factory.mktemp("formats") / f"{request.param}.gguf"
    write_gguf_of(folder, path, request.param)
    return open_model(path)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize(("exact", "tolerance"), [(True, EXACT), (False, FAST)])
def test_logits_equal_the_dequantized_forward(quantized: LoadableModel, exact: bool, tolerance: float) -> None:
    """Blocks compute what they stand for."""
    expected = Oracle(quantized).logits(TOKENS)

    logits = run(make_runner(quantized, exact=exact), Part(0, TOKENS, rows=len(TOKENS)))

    assert np.linalg.norm(logits - expected) / np.linalg.norm(expected) < tolerance


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "Q8_1"])
def test_k_quants_in_one_model_with_others(model: LoadableModel, name: str) -> None:
    """K-formats in a model with float ones are merged where they agree and kept apart where not."""
    tensors = dict(model.tensors)
    for target in ("embed", "layers.0.v", "layers.1.down", "layers.2.gate", "layers.2.up", "layers.3.o", "head"):
        rows, columns = tensors[target].shape
        stored = random_tensor(name, rows=rows, columns=columns, seed=5)
        tensors[target] = StoredTensor(target, name, (rows, columns), stored.data)
    mixed = LoadableModel(spec=model.spec, tensors=tensors)
    expected = Oracle(mixed).logits(TOKENS)

    exact = run(make_runner(mixed, exact=True), Part(0, TOKENS, rows=len(TOKENS)))
    fast = run(make_runner(mixed), Part(0, TOKENS, rows=len(TOKENS)))

    assert np.linalg.norm(exact - expected) / np.linalg.norm(expected) < EXACT
    assert np.linalg.norm(fast - expected) / np.linalg.norm(expected) < FAST


@pytest.mark.usefixtures("operators")
def test_quantized_weights_are_not_widened(quantized: LoadableModel) -> None:
    """A quantized model takes less memory than its float32 twin would."""
    runner = create_runner(threads=1)

    info = runner.load(quantized, lambda _: None)

    float_bytes = sum(4 * int(np.prod(t.shape)) for name, t in quantized.tensors.items() if len(t.shape) == 2)
    widened = quantized.tensors["layers.0.q"].format == "F16"
    assert info.weight_bytes < (1.01 if widened else 0.35) * float_bytes


@pytest.mark.usefixtures("operators")
def test_a_format_that_is_not_declared_is_refused(model: LoadableModel) -> None:
    """The message names tensor, format and what would do."""
    tensors = dict(model.tensors)
    tensors["layers.0.q"] = StoredTensor("layers.0.q", "IQ2_XXS", (256, 256), np.zeros((256, 66), np.uint8))

    with pytest.raises(UnsupportedModel, match=r"'layers\.0\.q' is stored as IQ2_XXS.*Q8_0"):
        create_runner().load(LoadableModel(spec=model.spec, tensors=tensors), lambda _: None)


@pytest.mark.usefixtures("operators")
def test_capabilities_list_what_can_be_loaded() -> None:
    """The declared formats are the ones with a mapping."""
    assert create_runner().capabilities().formats == FORMATS
