"""Every declared format: decoded to the same bits, and computed as an fp32 forward over those values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backends.api import LoadableModel
from backends.errors import UnsupportedModel
from backends.loading import open_model
from backends.testing.models import write_gguf_of
from backends.testing.oracle import Oracle
from backends.torch import create_runner
from backends.torch.blocks import BLOCK_FORMATS
from backends.torch.matrix import TorchMatrix
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor, decode
from tests.backends.torch.drive import Part, make_runner, run

TOKENS = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
TOLERANCE = 1e-4
SCALES_AT = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,)}


def random_tensor(name: str, *, rows: int = 48, columns: int = 512, seed: int = 0) -> StoredTensor:
    """Random bytes are valid blocks; only the scales are tamed, so that no value is infinite."""
    rng, form = np.random.default_rng(seed), FORMATS[name]
    if form.block_size == 1:
        values = rng.standard_normal((rows, columns), dtype=np.float32)
        return StoredTensor("w", name, (rows, columns), form.encode(values))
    data = rng.integers(0, 256, (rows, form.bytes_per_row(columns)), dtype=np.uint8)
    blocks = data.reshape(-1, form.block_bytes)
    for at in SCALES_AT.get(name, (0, 2)):
        blocks[:, at : at + 2] = (rng.standard_normal((len(blocks), 1)) * 0.01).astype("<f2").view(np.uint8)
    return StoredTensor("w", name, (rows, columns), data)


def test_declared_formats_are_those_that_can_be_decoded() -> None:
    """All that the loaders know; the fields of each make up its block."""
    assert create_runner().capabilities().formats == tuple(FORMATS)
    for name, form in FORMATS.items():
        assert sum(BLOCK_FORMATS[name].fields) == form.block_bytes


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_decoding_gives_the_same_bits(name: str) -> None:
    """Decoding random blocks gives the same bits, whole and by row, of one tensor and of several below each other."""
    tensors = [random_tensor(name, seed=1), random_tensor(name, rows=17, seed=2)]
    expected = np.concatenate([decode(tensor) for tensor in tensors])

    matrix = TorchMatrix(tensors, torch.device("cpu"))

    np.testing.assert_array_equal(matrix.rows(torch.arange(65)).numpy(), expected)
    np.testing.assert_array_equal(matrix.rows(torch.tensor([64, 3, 3])).numpy(), expected[[64, 3, 3]])
    assert matrix.num_bytes == sum(tensor.data.nbytes for tensor in tensors)


@pytest.mark.parametrize("num_rows", [0, 1, 3, 4, 12, 13, 32, 33])
@pytest.mark.parametrize(("name", "rows"), [("F32", 320), ("F32", 300), ("F16", 300), ("Q4_K", 320)])
def test_products(name: str, rows: int, num_rows: int) -> None:
    """Products are right in several tiles, the last partial, and on either side of where another order is faster."""
    tensor = random_tensor(name, rows=rows, columns=1024)
    x = np.random.default_rng(0).standard_normal((num_rows, 1024), dtype=np.float32)

    y = TorchMatrix([tensor], torch.device("cpu")).product(torch.from_numpy(x))

    assert y.is_contiguous()
    np.testing.assert_allclose(y.numpy(), x @ decode(tensor).T, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=["F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def quantized(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadableModel:
    path = tmp_path_factory.mktemp("formats") / f"{request.param}.gguf"
    write_gguf_of(folder, path, request.param)
    return open_model(path)


@pytest.mark.parametrize("exact", [False, True])
def test_logits_equal_the_dequantized_forward(quantized: LoadableModel, exact: bool) -> None:
    """Blocks compute what they stand for, whether decoded at every use or once."""
    expected = Oracle(quantized).logits(TOKENS)

    logits = run(make_runner(quantized, exact=exact), Part(0, TOKENS, rows=len(TOKENS)))

    assert np.linalg.norm(logits - expected) / np.linalg.norm(expected) < TOLERANCE


@pytest.mark.parametrize("name", ["Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "BF16"])
def test_formats_mixed_in_one_model(model: LoadableModel, name: str) -> None:
    """Merged where they agree and kept apart where not; a head may differ from the embedding."""
    tensors = dict(model.tensors)
    for target in ("embed", "layers.0.v", "layers.1.down", "layers.2.gate", "layers.2.up", "layers.3.o"):
        rows, columns = tensors[target].shape
        stored = random_tensor(name, rows=rows, columns=columns, seed=5)
        tensors[target] = StoredTensor(target, name, (rows, columns), stored.data)
    mixed = LoadableModel(spec=model.spec, tensors=tensors)
    expected = Oracle(mixed).logits(TOKENS)

    logits = run(make_runner(mixed), Part(0, TOKENS, rows=len(TOKENS)))

    assert np.linalg.norm(logits - expected) / np.linalg.norm(expected) < TOLERANCE


def test_weights_keep_their_size_unless_exact(quantized: LoadableModel) -> None:
    """Bytes on the device are bytes in the file; `exact` says what it does."""
    matrices = [tensor for tensor in quantized.tensors.values() if len(tensor.shape) == 2]

    stored = create_runner(threads=1).load(quantized, lambda _: None)
    exact = create_runner(threads=1, exact=True).load(quantized, lambda _: None)

    assert stored.weight_bytes == sum(tensor.data.nbytes for tensor in matrices)
    assert "stay as stored" in stored.notes[0]
    if matrices[0].format != "F16":
        assert exact.weight_bytes == sum(4 * int(np.prod(tensor.shape)) for tensor in matrices)
        assert "decoded to float32 at load" in exact.notes[0]


def test_a_format_that_is_not_declared_is_refused(model: LoadableModel) -> None:
    """The message names tensor, format and what would do."""
    tensors = dict(model.tensors)
    tensors["layers.0.q"] = StoredTensor("layers.0.q", "IQ2_XXS", (256, 256), np.zeros((256, 66), np.uint8))

    with pytest.raises(UnsupportedModel, match=r"'layers\.0\.q' is stored as IQ2_XXS.*Q8_0"):
        create_runner().load(LoadableModel(spec=model.spec, tensors=tensors), lambda _: None)
