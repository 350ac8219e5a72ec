"""Counter-based randomness: a number belongs to (seed, output index), not to the order of calls."""

from __future__ import annotations

import numpy as np

_MASK64 = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that is the same whatever else is in the batch, and on every machine.

    Philox4x64 (Salmon et al., SC'11) with the seed as key and the output index in the second counter word; the first
    word is left for further draws of the same token.
    """
    bits = np.random.Philox(key=seed & _MASK64, counter=(index & _MASK64) << 64).random_raw()
    return (int(bits) >> 11) * 2.0**-53
