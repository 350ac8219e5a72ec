"""Arrays at fixed addresses that grow: what a binding points to."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


class Buffer:
    """Room for arrays of one type. `generation` changes when the address does."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self.dtype = dtype
        self.generation = 0
        self._room: Array = np.empty(0, dtype)

    @property
    def address(self) -> int:
        return self._room.ctypes.data

    def view(self, *shape: int) -> Array:
        """The first elements as an array of this shape; earlier contents are kept only if the room sufficed."""
        size = math.prod(shape)
        if size > len(self._room):
            self._room = np.empty(max(size, 2 * len(self._room)), self.dtype)
            self.generation += 1
        return self._room[:size].reshape(shape)
