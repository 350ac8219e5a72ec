"""The small kernels against torch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backends.torch.cuda.fused import add_rms_norm, gated, rms_norm, rotate_and_store

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
ROUNDING = {torch.float32: 1e-5, torch.float16: 5e-3}


@TYPES
@pytest.mark.parametrize("columns", [64, 96, 1000])
def test_norm(columns: int, dtype: torch.dtype, device: torch.device) -> None:
    """The norm is right, also of rows that lie apart in memory."""
    x = torch.randn(5, columns + 32, device=device).to(dtype)[:, 8 : columns + 8]
    weight = torch.rand(columns, device=device)

    normed = rms_norm(x, weight, 1e-5, dtype=dtype)

    wanted = functional.rms_norm(x.float(), (columns,), weight, 1e-5)
    torch.testing.assert_close(normed.float(), wanted, atol=ROUNDING[dtype], rtol=0)


@TYPES
def test_add_and_norm(dtype: torch.dtype, device: torch.device) -> None:
    """The sum stays float32, to the bit; only its norm has the activations' type."""
    branch, residual = torch.randn(3, 96, device=device).to(dtype), torch.randn(3, 96, device=device)
    weight = torch.rand(96, device=device)

    normed, total = add_rms_norm(branch, residual, weight, 1e-5, dtype=dtype)

    wanted = functional.rms_norm(total, (96,), weight, 1e-5)
    assert torch.equal(total, branch.float() + residual)
    assert normed.dtype == dtype
    torch.testing.assert_close(normed.float(), wanted, atol=ROUNDING[dtype], rtol=0)


@TYPES
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("head_dim", [32, 96])
def test_rotate_and_store(head_dim: int, has_norm: bool, dtype: torch.dtype, device: torch.device) -> None:
    """Queries come back rotated, keys rotated and values as they are lie in the pool; padding is nowhere."""
    heads, kv_heads = 4, 2
    qkv = torch.randn(3, (heads + 2 * kv_heads) * head_dim, device=device).to(dtype)
    angles = torch.rand(3, head_dim // 2, device=device) * 6
    norm = torch.rand(heads + kv_heads, head_dim, device=device) if has_norm else None
    keys, values = (torch.full((4, 5, kv_heads, head_dim), 7.0, dtype=dtype, device=device) for _ in range(2))
    slot_map = torch.tensor([13, -1, 2], dtype=torch.int32, device=device)

    queries = rotate_and_store(qkv, angles.cos(), angles.sin(), slot_map, keys=keys, values=values, norm=norm, eps=1e-5)

    q, k, v = qkv.view(3, -1, head_dim).split_with_sizes((heads, kv_heads, kv_heads), dim=1)
    rotated = _rotated(torch.cat((q, k), dim=1), angles, norm)
    torch.testing.assert_close(queries.float(), rotated[:, :heads], atol=ROUNDING[dtype], rtol=0)
    torch.testing.assert_close(
        keys.flatten(0, 1)[[13, 2]].float(), rotated[[0, 2], heads:], atol=ROUNDING[dtype], rtol=0
    )
    assert torch.equal(values.flatten(0, 1)[[13, 2]], v[[0, 2]])
    untouched = [place for place in range(20) if place not in (13, 2)]
    assert (keys.flatten(0, 1)[untouched] == 7).all()
    assert (values.flatten(0, 1)[untouched] == 7).all()


@TYPES
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("ffn", [96, 1500])
def test_gated(ffn: int, gelu: bool, dtype: torch.dtype, device: torch.device) -> None:
    """The gate is right, also where the activation is saturated, and past the last whole block."""
    gate_up = (4 * torch.randn(3, 2 * ffn, device=device)).to(dtype)
    gate_up[0, :2] = torch.tensor([-200.0, 200.0])

    found = gated(gate_up, gelu=gelu)

    gate, up = gate_up.float().chunk(2, dim=1)
    wanted = (functional.gelu(gate, approximate="tanh") if gelu else functional.silu(gate)) * up
    torch.testing.assert_close(
        found.float(), wanted, atol=ROUNDING[dtype], rtol=1e-3 if dtype != torch.float32 else 1e-5
    )


def _rotated(x: Tensor, angles: Tensor, norm: Tensor | None) -> Tensor:
    x = x.float()
    if norm is not None:
        x = functional.rms_norm(x, (x.shape[-1],), eps=1e-5) * norm
    low, high = x.chunk(2, dim=-1)
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
