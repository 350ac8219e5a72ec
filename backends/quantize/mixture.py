"""Choice of a format for each tensor: llama.cpp's rules (`llama_tensor_get_type_impl` in src/llama-quant.cpp).

Tensors are named as in GGUF files. Not quantized at all: vectors, norms and the routers of mixtures of experts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from backends.errors import ModelError
from backends.models.spec import ModelSpec
from backends.quantize.recipes import Recipe
from backends.weights.formats import FORMATS

_LAYER = re.compile(r"blk\.(\d+)\.")
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_VALUES = ("attn_v.weight", "attn_qkv.weight")
_LEGACY_WITH_IMPORTANCE = {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}

# `tensor_type_fallback`; Q8_K, which llama.cpp does not store, goes the way of Q6_K.
_NARROWER_BLOCKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q8_K": "Q8_0"}


class FormatChoice(msgspec.Struct, frozen=True):
    """A format, and the one that the rules wanted if the tensor's rows are no whole number of its blocks."""

    format: str
    wanted: str


def is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    """True if a stored tensor is a matrix that a format may be chosen for (`tensor_allows_quantization`)."""
    if len(shape) < 2 or not name.endswith("weight"):
        return False
    return "_norm.weight" not in name and "ffn_gate_inp.weight" not in name


def choose_formats(
    shapes: Mapping[str, tuple[int, ...]], recipe: Recipe, spec: ModelSpec, *, has_importance: bool
) -> dict[str, FormatChoice]:
    """A format for every tensor of `shapes`, all of them quantizable.

    Raises `ModelError` where the recipe needs an importance matrix (Q2_K_S).
    """
    rules = _Rules(recipe, spec, list(shapes), has_importance=has_importance)
    choices = {name: _fitting(rules.format_of(name, shape), shape[-1]) for name, shape in shapes.items()}
    _require_importance(choices, recipe, has_importance=has_importance)
    return choices


def _fitting(wanted: str, columns: int) -> FormatChoice:
    """Rows that are no whole number of blocks get a format of smaller blocks, or none."""
    if columns % FORMATS[wanted].block_size == 0:
        return FormatChoice(wanted, wanted)
    narrower = _NARROWER_BLOCKS.get(wanted, wanted)
    return FormatChoice(narrower if columns % FORMATS[narrower].block_size == 0 else "F16", wanted)


def _require_importance(choices: Mapping[str, FormatChoice], recipe: Recipe, *, has_importance: bool) -> None:
    if recipe.name != "Q2_K_S" or recipe.pure or has_importance:
        return
    for name, choice in choices.items():
        if choice.format == "Q2_K" and name not in (_EMBEDDING, _HEAD):
            raise ModelError(f"tensor {name!r}: Q2_K_S needs an importance matrix; give --importance or take Q2_K")


class _Rules:
    """The mixture of one recipe for one model."""

    def __init__(self, recipe: Recipe, spec: ModelSpec, names: Sequence[str], *, has_importance: bool) -> None:
        self._recipe = recipe
        self._spec = spec
        self._is_tied = _HEAD not in names
        self._has_importance = has_importance
        values = sorted((name for name in names if name.endswith(_VALUES)), key=_layer)
        self._value_index = {name: index for index, name in enumerate(values)}

    def format_of(self, name: str, shape: tuple[int, ...]) -> str:
        base = self._recipe.base
        if self._recipe.pure:
            return base
        if name == _HEAD or (self._is_tied and name == _EMBEDDING):
            return self._head_format(columns=shape[-1])
        if name.endswith(_VALUES):
            return self._values_format(self._value_index[name])
        if name.endswith("attn_k.weight"):
            return "Q8_0" if self._spec.num_experts == 8 else base
        if "ffn_down" in name:
            return self._down_format(_layer(name))
        return self._output_format() if name.endswith("attn_output.weight") else base

    def _head_format(self, *, columns: int) -> str:
        """Format of the output head, also where it is the embedding."""
        base = self._recipe.base
        if columns % FORMATS[base].block_size or base == "Q8_0":
            return "Q8_0"
        return "Q6_K"

    def _values_format(self, index: int) -> str:
        """Format of the value projection, alone or stacked below query and key; few rows, and sensitive ones."""
        if self._spec.num_experts == 8:
            return "Q8_0"
        chosen = self._values_of_recipe(index)
        return "Q5_K" if self._is_70b and chosen in ("Q3_K", "Q4_K") else chosen

    def _values_of_recipe(self, index: int) -> str:
        shares_heads = self._spec.num_heads // self._spec.num_kv_heads >= 4
        match self._recipe.name:
            case "Q2_K":
                return "Q4_K" if shares_heads else "Q3_K"
            case "Q2_K_S" if shares_heads:
                return "Q4_K"
            case "Q3_K_M":
                return "Q5_K" if index < 2 else "Q4_K"
            case "Q3_K_L":
                return "Q5_K"
            case "Q4_K_M" | "Q5_K_M" if _deserves_more_bits(index, len(self._value_index)):
                return "Q6_K"
            case "Q4_K_S" if index < 4:
                return "Q5_K"
        return self._recipe.base

    def _down_format(self, layer: int) -> str:
        """Format of the projection back from the MLP's width."""
        base, layers = self._recipe.base, self._spec.num_layers
        is_early = layer < layers // 8
        match self._recipe.name:
            case "Q2_K":
                return "Q3_K"
            case "Q2_K_S":
                return "Q4_K" if is_early else base
            case "Q3_K_M":
                return "Q5_K" if layer < layers // 16 else "Q4_K"
            case "Q3_K_L":
                return "Q5_K"
            case "Q4_K_M" | "Q5_K_M":
                return "Q6_K" if _deserves_more_bits(layer, layers) else base
            case "Q4_K_S":
                return "Q5_K" if is_early else base
            case "Q4_0" | "Q5_0" if is_early and self._has_importance:
                return _LEGACY_WITH_IMPORTANCE[base]
        return base

    def _output_format(self) -> str:
        """Format of the projection back from attention."""
        name, base = self._recipe.name, self._recipe.base
        if self._spec.num_experts == 8:
            return "Q5_K" if name in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M") else base
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(name, base)

    @property
    def _is_70b(self) -> bool:
        """llama.cpp's `LLM_TYPE_70B`: the models of 80 layers that share key/value heads."""
        return self._spec.num_layers == 80 and self._spec.num_heads != self._spec.num_kv_heads


def _layer(name: str) -> int:
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def _deserves_more_bits(layer: int, num_layers: int) -> bool:
    """The first and last eighth, and every third layer between (`use_more_bits`)."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
