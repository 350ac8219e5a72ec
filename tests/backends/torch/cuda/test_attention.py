"""The paged attention kernel against the definition, in the pool's types, with NaN wherever no key lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.torch.cuda.reference import Shape, compare

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Inputs are the same bits; float16 and bfloat16 round the weights of the values, and the result."""

SHAPES = {
    "decode": Shape(new=(1, 1, 1), kv=(5, 70, 33), heads=8, kv_heads=2, head_dim=32),
    "decode, split": Shape(new=(1, 1, 1), kv=(1, 170, 33), heads=8, kv_heads=2, head_dim=64, splits=5),
    "decode, windowed and split": Shape(new=(1, 1), kv=(90, 7), heads=4, kv_heads=4, head_dim=32, window=20, splits=3),
    "prefill": Shape(new=(40, 3), kv=(40, 3), heads=4, kv_heads=2, head_dim=64),
    "chunks": Shape(new=(17, 1, 30), kv=(60, 44, 31), heads=8, kv_heads=4, head_dim=16),
    "verify": Shape(new=(5, 5, 5), kv=(77, 9, 5), heads=8, kv_heads=1, head_dim=128),
    "verify, split": Shape(new=(5, 4), kv=(77, 9), heads=6, kv_heads=2, head_dim=32, splits=4),
    "three heads a group": Shape(new=(50, 2), kv=(61, 2), heads=9, kv_heads=3, head_dim=32),
    "seventeen heads a group": Shape(new=(3, 1), kv=(20, 18), heads=17, kv_heads=1, head_dim=32),
    "head of 96": Shape(new=(9, 1), kv=(40, 18), heads=4, kv_heads=2, head_dim=96),
    "head of 80": Shape(new=(9, 1), kv=(40, 18), heads=2, kv_heads=2, head_dim=80, splits=2),
    "head of 256, capped": Shape(new=(12, 1), kv=(12, 40), heads=4, kv_heads=2, head_dim=256, softcap=5.0),
    "windowed": Shape(new=(33, 1, 6), kv=(80, 50, 6), heads=4, kv_heads=2, head_dim=32, window=9),
    "window of one": Shape(new=(7,), kv=(20,), heads=2, kv_heads=1, head_dim=32, window=1),
    "window and cap": Shape(new=(20, 1), kv=(70, 64), heads=4, kv_heads=2, head_dim=64, window=16, softcap=2.0),
    "shared prefix": Shape(new=(4, 1, 9), kv=(40, 49, 41), heads=4, kv_heads=2, head_dim=32, shared_blocks=2),
    "slots": Shape(new=(4, 1, 9), kv=(40, 49, 9), heads=4, kv_heads=2, head_dim=32, block_tokens=50),
    "odd blocks": Shape(new=(4, 1), kv=(40, 7), heads=4, kv_heads=2, head_dim=32, block_tokens=7, splits=2),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_computes_attention(name: str, device: torch.device) -> None:
    """The kernel follows the definition, ragged, grouped, capped, windowed, split or not, with NaN where no key is."""
    found, wanted = compare(SHAPES[name], device, torch.float32)

    torch.testing.assert_close(found, wanted, atol=TOLERANCE[torch.float32], rtol=0)


@pytest.mark.parametrize("name", ["decode, split", "prefill", "head of 96", "head of 256, capped", "slots"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types(name: str, dtype: torch.dtype, device: torch.device) -> None:
    """The same in the types that GPUs serve with, summed in float32."""
    if device.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("not verified: needs CUDA, for Triton's interpreter gets products of bfloat16 tiles wrong")

    found, wanted = compare(SHAPES[name], device, dtype)

    torch.testing.assert_close(found, wanted, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_random_shapes(seed: int, device: torch.device) -> None:
    """Any mixture of lengths, groups, blocks, windows, caps and splits."""
    rng = np.random.default_rng(seed)
    new = rng.integers(1, 40, size=rng.integers(1, 5))
    shape = Shape(
        new=tuple(new.tolist()),
        kv=tuple((new + rng.integers(0, 80, size=len(new))).tolist()),
        kv_heads=int(kv_heads := rng.integers(1, 4)),
        heads=int(kv_heads * rng.integers(1, 6)),
        head_dim=int(rng.choice([16, 32, 40, 64])),
        block_tokens=int(rng.choice([1, 4, 16, 119])),
        softcap=float(rng.choice([0.0, 3.0])),
        window=int(rng.choice([0, 1, 13, 64])),
        splits=int(rng.integers(1, 4)),
    )

    found, wanted = compare(shape, device, torch.float32, seed=seed)

    torch.testing.assert_close(found, wanted, atol=TOLERANCE[torch.float32], rtol=0)


@pytest.mark.parametrize("splits", [1, 3])
def test_padding_is_zero(splits: int, device: torch.device) -> None:
    """A sequence without keys gives zeros, and the others in the batch what they would give alone."""
    shape = Shape(new=(1, 1, 1), kv=(0, 20, 0), heads=4, kv_heads=2, head_dim=32, splits=splits)

    found, wanted = compare(shape, device, torch.float32)

    assert not found[[0, 2]].any()
    torch.testing.assert_close(found[1], wanted[1], atol=TOLERANCE[torch.float32], rtol=0)
