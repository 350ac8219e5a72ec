"""The values behind a stored tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backends.weights.formats import LAYOUTS
from backends.weights.tensor import StoredTensor


def decode(tensor: StoredTensor) -> npt.NDArray[np.float32]:
    """All values, float32 in the tensor's logical shape. Allocates 4 bytes an element."""
    return LAYOUTS[tensor.format].decode(tensor.data).reshape(tensor.shape)
