"""Weight matrices on the device, as stored, and their products."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backends.errors import UnsupportedModel
from backends.kernels.library import Library
from backends.kernels.linear import Linear as TiledLinear
from backends.kernels.linear import linear_of
from backends.torch.blocks import BLOCK_FORMATS
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CPU_TILE = 1 << 17
"""Elements decoded at a time on a CPU: as float32 they stay in the second-level cache."""
_DEVICE_TILE = 1 << 24
"""Elements on a GPU, where few large launches matter more; bounds the scratch memory to 64 MB."""

_BLOCK_ROWS = 32
_BLOCKED, _TURNED = range(4, 13), range(5, 33)
"""Rows of x for which something is faster on the CPU than x @ Wᵀ with a W that lies in memory: W as a batch of blocks,
or else W @ xᵀ. All 123 million weights of a model, 2 cores: 20 ms instead of 30 for 4 rows, 23 instead of 38 for 8, 31
instead of 43 for 16. With a W in cache, x @ Wᵀ is the fastest for any number."""


class TorchMatrix:
    """Stored matrices of one format and width, one below the other; F32 is computed with as it is.

    Any other format keeps its bits; a product decodes a tile of rows, uses it, and forgets it. With `kernels`,
    quantized ones lie in tiles and activations are rounded to int8; their blocks are kept too where rows are wanted.
    """

    def __init__(
        self,
        tensors: list[StoredTensor],
        device: torch.device,
        *,
        kernels: Library | None = None,
        needs_rows: bool = True,
    ) -> None:
        name = tensors[0].format
        self.num_rows = sum(tensor.shape[0] for tensor in tensors)
        self.num_columns = tensors[0].shape[1]
        self.ggml_type = FORMATS[name].ggml_type
        self._format = BLOCK_FORMATS[name]
        self._tiles = _tiles(tensors, kernels) if kernels and name not in _FLOATS else None
        keeps_blocks = needs_rows or self._tiles is None
        self.fields = _fields(tensors, self._format.fields, FORMATS[name].block_bytes, device) if keeps_blocks else []
        """Fields of the blocks, uint8 `[rows, blocks a row * width]` each."""
        self.floats = self.fields[0].view(_FLOATS[name]) if name in _FLOATS else None
        """The matrix in the float type that it is stored in, a view; None if it is quantized."""
        self._dense = self.floats if name == "F32" else None
        self._tile_rows = max(1, (_CPU_TILE if device.type == "cpu" else _DEVICE_TILE) // self.num_columns)

    @property
    def num_bytes(self) -> int:
        return sum(field.nbytes for field in self.fields) + (self._tiles.packed.nbytes if self._tiles else 0)

    def rows(self, index: Tensor) -> Tensor:
        """float32 `[len(index), columns]`; of a matrix that was made with `needs_rows`."""
        if self._dense is not None:
            return self._dense[index]
        return self._decode([field[index] for field in self.fields])

    def product(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, float32 `[T, columns]` → `[T, rows]`."""
        if self._dense is not None:
            return _times(x, self._dense)
        if self._tiles is not None:
            return torch.from_numpy(self._tiles.multiply(x.numpy(), threads=torch.get_num_threads()))
        y = x.new_empty(len(x), self.num_rows)
        for start in range(0, self.num_rows, self._tile_rows):
            tile = slice(start, min(start + self._tile_rows, self.num_rows))
            weight = self._decode([field[tile] for field in self.fields])
            y[:, tile] = functional.linear(x, weight)
        return y

    def _decode(self, fields: list[Tensor]) -> Tensor:
        split = [field.view(-1, width) for field, width in zip(fields, self._format.fields, strict=True)]
        return self._format.decode(split).view(-1, self.num_columns)


def _tiles(tensors: list[StoredTensor], kernels: Library) -> TiledLinear | None:
    merged = StoredTensor(
        name="+".join(tensor.name for tensor in tensors),
        format=tensors[0].format,
        shape=(sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]),
        data=np.concatenate([tensor.data for tensor in tensors]),
    )
    try:
        return linear_of(kernels, merged)
    except UnsupportedModel:
        return None


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weightᵀ, contiguous."""
    if x.device.type != "cpu":
        return functional.linear(x, weight)
    if len(x) in _BLOCKED and len(weight) % _BLOCK_ROWS == 0:
        blocks = weight.view(-1, _BLOCK_ROWS, weight.shape[1])
        return torch.bmm(x.expand(len(blocks), -1, -1), blocks.transpose(1, 2)).transpose(0, 1).reshape(len(x), -1)
    if len(x) in _TURNED:
        return torch.mm(weight, x.t()).t().contiguous()
    return functional.linear(x, weight)


def _fields(
    tensors: list[StoredTensor], widths: tuple[int, ...], block_bytes: int, device: torch.device
) -> list[Tensor]:
    """uint8 `[rows, blocks a row * width]` for each field of the blocks."""
    ends = np.cumsum([0, *widths]).tolist()
    return [_field(tensors, slice(*ends_of), block_bytes).to(device) for ends_of in pairwise(ends)]


def _field(tensors: list[StoredTensor], part: slice, block_bytes: int) -> Tensor:
    blocks = [tensor.data.reshape(len(tensor.data), -1, block_bytes)[:, :, part] for tensor in tensors]
    _, per_row, width = blocks[0].shape
    field = torch.empty(sum(len(array) for array in blocks), per_row * width, dtype=torch.uint8)
    np.concatenate(blocks, out=field.numpy().reshape(-1, per_row, width))
    return field
