"""Compiles every kernel without a GPU, as the launches would: a check that needs no device. Not run on one yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from backends.torch.cuda import dequant_matmul, fused, paged_attention
from backends.torch.cuda.tiles import MAX_SPLITS, choose_tiling
from backends.weights.formats import FORMATS

_FLOAT32 = {"part_out", "part_max", "part_sum", "total", "residual", "weight", "norm", "cos", "sin"}
_INT32 = {"table", "kv_len", "q_start", "tile_sequence", "tile_query", "slot_map"}
_FIELDS = {"f0", "f1", "f2", "f3", "f4"}
_SCALARS = {"num_tokens": "i32", "row_stride": "i32", "column_stride": "i32", "window": "i32", "splits": "i32"}
_SCALARS |= {"scale": "fp32", "softcap": "fp32", "eps": "fp32"}
_SHAPES = ((14, 2, 64, False), (32, 32, 96, False), (32, 8, 128, False), (8, 4, 256, True))
"""Query heads, key heads, size of a head, cap of the scores: as in Qwen2, Phi-3, Llama 3 and Gemma 2."""
_ELEMENT_SIZES = {"fp32": 4, "fp16": 2, "bf16": 2}

Kernel = Any  # Triton's functions have no types
Constants = Mapping[str, int | bool]


class Variant(msgspec.Struct, frozen=True):
    """One compilation: a kernel, its compile-time arguments, and its number of warps."""

    kernel: Kernel
    constants: Constants
    num_warps: int = 4


class Compiled(msgspec.Struct, frozen=True):
    """`shared_bytes` of shared memory for each program."""

    name: str
    constants: Constants
    cubin: bytes
    shared_bytes: int


def compile_kernels(dtype: str, *, capability: int = 90) -> Iterator[Compiled]:
    """Each kernel for activations of type `fp32`, `fp16` or `bf16`, as it is launched for models of several shapes.

    `capability`: 90 is Hopper. Raises Triton's errors.
    """
    target = GPUTarget("cuda", capability, 32)
    for variant in _variants(_ELEMENT_SIZES[dtype]):
        options = {"num_warps": variant.num_warps, "num_stages": 2}
        compiled = triton.compile(_source(variant, dtype), target=target, options=options)
        name = variant.kernel.__name__
        yield Compiled(name, variant.constants, compiled.asm["cubin"], compiled.metadata.shared)


def _variants(element_size: int) -> Iterator[Variant]:
    for heads, kv_heads, head_dim, has_softcap in _SHAPES:
        group = heads // kv_heads
        tilings = [
            choose_tiling(longest, group=group, head_dim=head_dim, element_size=element_size) for longest in (1, 4096)
        ]
        sizes = {"HEADS": heads, "KV_HEADS": kv_heads, "HEAD_DIM": head_dim}
        for tiling, is_split in ((tilings[0], True), (tilings[0], False), (tilings[1], False)):
            constants = {"PADDED_DIM": tiling.padded_dim, "TILE_ROWS": tiling.rows, "TILE_KEYS": tiling.keys}
            constants |= {"BLOCK_TOKENS": 16, "IS_SPLIT": is_split, "HAS_SOFTCAP": has_softcap}
            yield Variant(paged_attention.attend_tile, sizes | constants, tiling.num_warps)
        merged = {"HEAD_DIM": head_dim, "PADDED_DIM": tilings[0].padded_dim, "MAX_SPLITS": MAX_SPLITS}
        yield Variant(paged_attention.merge_splits, merged)
        half = {"PADDED_HALF": triton.next_power_of_2(head_dim // 2), "HAS_NORM": has_softcap}
        yield Variant(fused.rotate_head, sizes | half, num_warps=1)
    for flag in (False, True):
        yield Variant(fused.norm_row, {"COLUMNS": 4096, "ROW_STRIDE": 4096, "PADDED": 4096, "HAS_RESIDUAL": flag}, 8)
        yield Variant(fused.gate_row, {"FFN": 14336, "BLOCK": fused.GATE_BLOCK, "GELU": flag})
    yield from _quantized_products()


def _quantized_products() -> Iterator[Variant]:
    for form in FORMATS.values():
        if form.block_size == 1:
            continue
        sizes = {"ROWS": 4096, "GROUPS": 128, "FORMAT": form.ggml_type}
        vector = {"TILE_ROWS": dequant_matmul.VECTOR_ROWS, "TILE_GROUPS": dequant_matmul.VECTOR_GROUPS}
        yield Variant(dequant_matmul.multiply_vector, sizes | vector)
        tile = {"TILE_ROWS": dequant_matmul.TILE_OUTPUTS, "TILE_GROUPS": dequant_matmul.TILE_GROUPS}
        yield Variant(dequant_matmul.multiply_tile, sizes | tile | {"TILE_TOKENS": dequant_matmul.TILE_TOKENS[1]})


def _source(variant: Variant, dtype: str) -> ASTSource:
    """Source as a launch would derive it from its arguments: types, and which pointers are multiples of 16 bytes."""
    names = variant.kernel.arg_names
    types = {name: _argument_type(name, dtype) for name in names if name not in variant.constants}
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if types.get(name, "").startswith("*") and name not in _INT32
    }
    return ASTSource(variant.kernel, signature, dict(variant.constants), aligned)


def _argument_type(name: str, dtype: str) -> str:
    if name in _SCALARS:
        return _SCALARS[name]
    if name in _INT32:
        return "*i32"
    if name in _FIELDS:
        return "*u8"
    return "*fp32" if name in _FLOAT32 else f"*{dtype}"
