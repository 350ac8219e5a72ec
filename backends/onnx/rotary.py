"""Tables of the rotary embedding (RoFormer, arXiv:2104.09864), with linear and Llama 3 frequency scaling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backends.models.families.rope import llama3_factors
from backends.models.spec import ModelSpec

F32 = npt.NDArray[np.float32]


def rotary_tables(spec: ModelSpec, num_positions: int) -> tuple[F32, F32]:
    """(cos, sin), each float32 `[num_positions, head_dim / 2]`."""
    exponents = np.arange(0, spec.head_dim, 2) / spec.head_dim
    frequencies = spec.rope_theta**-exponents / _factors(spec)
    angles = np.arange(num_positions)[:, None] * frequencies[None]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _factors(spec: ModelSpec) -> npt.NDArray[np.float64]:
    scaling = spec.rope_scaling
    if scaling is None:
        return np.ones(spec.head_dim // 2)
    if scaling.kind == "llama3":
        return np.array(llama3_factors(spec, scaling))
    return np.full(spec.head_dim // 2, scaling.factor)
