"""LoRA adapters of the linears: addresses of their matrices, for the operators to read.

adapters [slots, 3 * linears] i64: for each linear that can be adapted the addresses of A and of B transposed, and the
rank. lora [T] i32: the slot of each row, or -1. An adapter uses memory for its own rank, allocated when it is loaded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backends.api import F32, AdapterWeights
from backends.errors import CapacityExceeded
from backends.models.shapes import lora_shapes
from backends.models.spec import ModelSpec

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
"""Linears of a layer, in the order of the table: those multiplied as one are adjacent."""
SLOTS = 8
MAX_RANK = 256


class Adapters:
    """The table, and the matrices that it points to. Nothing here is called while a step runs."""

    def __init__(self, spec: ModelSpec) -> None:
        self.shapes = lora_shapes(spec, TARGETS)
        self.table: npt.NDArray[np.int64] = np.zeros((SLOTS, 3 * spec.num_layers * len(TARGETS)), np.int64)
        self._cached: dict[int, list[F32]] = {}

    def put(self, slot: int, weights: AdapterWeights) -> None:
        """Raises `CapacityExceeded` for a slot, rank, target or shape that there is none of."""
        self._check(slot, weights)
        self.drop(slot)
        self._cached[slot] = []
        for name, (a, b) in weights.matrices.items():
            first = np.array(a, np.float32, order="C")
            second = np.ascontiguousarray((np.float32(weights.scale) * b).T, np.float32)
            self._cached[slot] += [first, second]
            entry = 3 * number(name)
            self.table[slot, entry : entry + 3] = first.ctypes.data, second.ctypes.data, weights.rank

    def drop(self, slot: int) -> None:
        if 0 <= slot < SLOTS:
            self.table[slot] = 0
        self._cached.pop(slot, None)

    @property
    def num_bytes(self) -> int:
        return sum(matrix.nbytes for matrices in self._cached.values() for matrix in matrices)

    def _check(self, slot: int, weights: AdapterWeights) -> None:
        if not 0 <= slot < SLOTS or not 0 < weights.rank <= MAX_RANK:
            raise CapacityExceeded(
                f"adapter slot {slot}, rank {weights.rank}: there are {SLOTS} slots for ranks up to {MAX_RANK}"
            )
        for name, (a, b) in weights.matrices.items():
            rows, columns = self.shapes.get(name, (0, 0))
            if (a.shape, b.shape) != ((weights.rank, columns), (rows, weights.rank)):
                raise CapacityExceeded(
                    f"adapter for {name!r}: A {a.shape} and B {b.shape} of rank {weights.rank} fit no linear of "
                    f"{rows} x {columns}; targets are {', '.join(TARGETS)}"
                )


def number(name: str) -> int:
    """Index of a linear in the table; `name` is canonical, such as `layers.3.q`."""
    _, layer, target = name.split(".")
    return int(layer) * len(TARGETS) + TARGETS.index(target)
