"""Every kernel becomes machine code for a Hopper GPU, on a machine without one."""

from __future__ import annotations

import os

import pytest

from backends.torch.cuda.compile import compile_kernels

PRODUCTS = ("multiply_vector", "multiply_tile")
SHARED_BYTES = 227 * 1024
"""Shared memory of one program on compute capability 9.0 (CUDA C++ programming guide, technical specifications)."""


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_kernels_compile_for_hopper(dtype: str) -> None:
    """An ELF file for each variant, within the shared memory of a program."""
    compiled = list(compile_kernels(dtype))

    assert {each.name for each in compiled} == {
        "attend_tile",
        "merge_splits",
        "rotate_head",
        "norm_row",
        "gate_row",
        *PRODUCTS,
    }
    assert all(each.cubin.startswith(b"\x7fELF") for each in compiled)
    assert max(each.shared_bytes for each in compiled) <= SHARED_BYTES
