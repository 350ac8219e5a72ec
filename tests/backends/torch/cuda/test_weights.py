"""Weights that the CUDA path takes over from the loaded ones, on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backends.api import LoadableModel
from backends.loading import open_model
from backends.testing.models import Dtype, ModelSizes, make_random_model, write_gguf_of
from backends.torch.cuda.weights import CudaWeights, DecodedProduct, Dense, Quantized, activation_type, take_over
from backends.torch.matrix import TorchMatrix
from backends.torch.weights import TorchWeights
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor, decode

SIZES = ModelSizes(num_layers=1, hidden_size=256, ffn_size=256, num_heads=4, num_kv_heads=2, vocab_size=400)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([torch.float32], torch.float32),
        ([torch.bfloat16, torch.bfloat16], torch.bfloat16),
        ([torch.float16], torch.float16),
        ([torch.bfloat16, torch.float32], torch.bfloat16),
        ([torch.float16, torch.bfloat16], torch.bfloat16),
        ([torch.bfloat16, None], torch.float32),
    ],
    ids=str,
)
def test_activations_have_the_weights_type(stored: list[torch.dtype | None], expected: torch.dtype) -> None:
    """Activations have the weights' type, also next to float32 matrices; a quantized one makes it float32."""
    assert activation_type(stored) == expected


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_floats_are_views(dtype: Dtype, tmp_path: Path) -> None:
    """Float weights are neither copied nor widened, and merged matrices stay one."""
    weights, taken = _take(open_model(make_random_model(tmp_path / "model", sizes=SIZES, dtype=dtype)))

    for names, linear in weights.linears.items():
        (part,) = taken.linears[names].parts
        assert isinstance(part, Dense)
        assert linear.parts[0].floats is not None
        assert part.weight.data_ptr() == linear.parts[0].floats.data_ptr()
        assert part.weight.dtype == taken.dtype


def test_quantized_matrices_stay_blocks(tmp_path: Path) -> None:
    """Rows of them are decoded when asked for, and activations are float32."""
    folder = make_random_model(tmp_path / "model", sizes=SIZES)
    model = open_model(write_gguf_of(folder, tmp_path / "model.gguf", "Q8_0"))
    weights, taken = _take(model)

    (part,) = taken.linears["layers.0.o",].parts
    rows = part.rows(torch.tensor([3, 1]))

    assert taken.dtype == torch.float32
    assert isinstance(part, Quantized)
    assert weights.linears["layers.0.o",].parts[0].num_bytes == model.tensors["layers.0.o"].data.nbytes
    assert torch.equal(rows, torch.from_numpy(decode(model.tensors["layers.0.o"]))[[3, 1]])


def test_a_float32_matrix_among_bfloat16_ones() -> None:
    """A router, say: it is multiplied as float32, and only a product that is asked for exactly stays so."""
    values = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    part = DecodedProduct(TorchMatrix([StoredTensor("router", "F32", (8, 64), FORMATS["F32"].encode(values))], CPU))
    x = torch.randn(2, 64).bfloat16()

    exact, rounded = part.exactly(x), part.times(x)

    torch.testing.assert_close(exact, x.float() @ torch.from_numpy(values).t(), atol=1e-5, rtol=0)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.bfloat16())


def test_logits_of_no_row() -> None:
    """A chunk that is not the last of its prompt wants none."""
    assert Dense(torch.ones(8, 4, dtype=torch.bfloat16)).exactly(torch.ones(0, 4, dtype=torch.bfloat16)).shape == (0, 8)


def _take(model: LoadableModel) -> tuple[TorchWeights, CudaWeights]:
    weights = TorchWeights(model, exact=False, device=CPU, progress=lambda _: None)
    return weights, take_over(weights)
