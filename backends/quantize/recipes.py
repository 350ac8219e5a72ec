"""Names that a user can ask for: single formats, and llama.cpp's mixtures of them.

Names and numbers are llama.cpp's (`QUANT_OPTIONS` in tools/quantize, `enum llama_ftype` in llama.h), with one
difference: Q3_K, Q4_K and Q5_K, there other names of Q3_K_M, Q4_K_M and Q5_K_M, here mean that format alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from backends.errors import ModelError


class UnknownFormat(ModelError):
    """A format name that is not in `RECIPES`."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """`base` is the format of most matrices; the mixture rules of `name` raise some, unless it is `pure`."""

    name: str
    base: str
    file_type: int | None
    """`general.file_type`; `None` where llama.cpp has no number for it."""
    pure: bool = False
    """Every matrix in the base format, head and embedding included."""

    @property
    def is_quantized(self) -> bool:
        return self.base not in ("F32", "F16", "BF16")


def _mixture(name: str, base: str, file_type: int) -> Recipe:
    return Recipe(name=name, base=base, file_type=file_type)


def _alone(name: str, file_type: int | None) -> Recipe:
    return Recipe(name=name, base=name, file_type=file_type, pure=True)


_ALL = (
    _alone("F32", 0),
    _alone("F16", 1),
    _alone("BF16", 32),
    _mixture("Q4_0", "Q4_0", 2),
    _mixture("Q4_1", "Q4_1", 3),
    _mixture("Q5_0", "Q5_0", 8),
    _mixture("Q5_1", "Q5_1", 9),
    _mixture("Q8_0", "Q8_0", 7),
    _alone("Q8_1", None),
    _mixture("Q2_K", "Q2_K", 10),
    _mixture("Q2_K_S", "Q2_K", 21),
    _alone("Q3_K", 11),
    _mixture("Q3_K_S", "Q3_K", 11),
    _mixture("Q3_K_M", "Q3_K", 12),
    _mixture("Q3_K_L", "Q3_K", 13),
    _alone("Q4_K", 14),
    _mixture("Q4_K_S", "Q4_K", 14),
    _mixture("Q4_K_M", "Q4_K", 15),
    _alone("Q5_K", 16),
    _mixture("Q5_K_S", "Q5_K", 16),
    _mixture("Q5_K_M", "Q5_K", 17),
    _mixture("Q6_K", "Q6_K", 18),
    _alone("Q8_K", None),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _ALL})
"""Every name that can be asked for."""


def recipe_by_name(name: str, *, pure: bool = False) -> Recipe:
    """The recipe of a name, whatever its case; `pure` switches its mixture rules off. Raises `UnknownFormat`."""
    recipe = RECIPES.get(name.upper())
    if recipe is None:
        raise UnknownFormat(f"format {name!r} is unknown; known are {', '.join(RECIPES)}")
    return msgspec.structs.replace(recipe, pure=True) if pure else recipe
