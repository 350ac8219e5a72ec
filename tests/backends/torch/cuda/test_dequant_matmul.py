"""Products straight from quantized blocks, against the decoded weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends.torch.cuda.dequant_matmul import times
from backends.torch.matrix import TorchMatrix
from backends.weights.formats import FORMATS
from backends.weights.tensor import decode
from tests.backends.random_blocks import random_tensor

QUANTIZED = [name for name, form in FORMATS.items() if form.block_size > 1]


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("tokens", [1, 3, 17])
def test_products_of_every_format(name: str, tokens: int, device: torch.device) -> None:
    """One row, a small batch and more than a tile; numbers of outputs and columns that fill no tile."""
    tensor = random_tensor(name, rows=37, columns=768)
    x = np.random.default_rng(tokens).standard_normal((tokens, 768)).astype(np.float32)

    y = times(torch.from_numpy(x).to(device), TorchMatrix([tensor], device))

    expected = x.astype(np.float64) @ decode(tensor).astype(np.float64).T
    np.testing.assert_allclose(y.cpu().numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_value_is_the_decoded_one(name: str, device: torch.device) -> None:
    """Rows of the identity pick single columns: no sum, so no rounding but that of the value."""
    tensor = random_tensor(name, rows=16, columns=256)
    values = decode(tensor)

    found = times(torch.eye(256, device=device), TorchMatrix([tensor], device))

    np.testing.assert_allclose(found.cpu().numpy().T, values, rtol=3e-7, atol=1e-7 * np.abs(values).max())


@pytest.mark.parametrize("tokens", [1, 5])
def test_activations_of_half_width(tokens: int, device: torch.device) -> None:
    """The result has the activations' type; sums are float32."""
    tensor = random_tensor("Q4_K", rows=32, columns=256)
    x = torch.randn(tokens, 256, device=device).half()

    y = times(x, TorchMatrix([tensor], device))

    expected = x.float().cpu().numpy() @ decode(tensor).T
    assert y.dtype == torch.float16
    np.testing.assert_allclose(y.float().cpu().numpy(), expected, rtol=0, atol=4e-3 * np.abs(expected).max())


def test_no_tokens_give_no_rows(device: torch.device) -> None:
    """The empty step."""
    matrix = TorchMatrix([random_tensor("Q8_0", rows=32, columns=64)], device)

    assert times(torch.empty(0, 64, device=device), matrix).shape == (0, 32)
