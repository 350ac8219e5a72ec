"""Rotary scaling, as Hugging Face configurations write it and as GGUF files hide it in a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backends.errors import UnsupportedModel
from backends.models.families.fields import Fields
from backends.models.families.limits import MAX_CONTEXT
from backends.models.spec import ModelSpec, RopeScaling

DEFAULT_THETA = 10000.0

_KNOWN_KEYS = frozenset(
    {
        "rope_type",
        "type",
        "rope_theta",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
        "partial_rotary_factor",
    }
)
_LLAMA3_CONTEXT = 8192
_FACTOR_TOLERANCE = 1e-4
"""The stored factors went through float32 arithmetic; a wrong parameter moves them by far more."""


def rope_from_config(config: Fields, where: str) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) of a config.json, old style (`rope_theta`, `rope_scaling`) or new (`rope_parameters`)."""
    key = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    values = config.nested(key)
    where = f"{where}: {key}"
    unknown = sorted(values.keys() - _KNOWN_KEYS)
    if unknown:
        raise UnsupportedModel(f"{where} has the field {unknown[0]!r}, for which this build has no rule")
    fields = Fields(values, where=where)
    fields.require("partial_rotary_factor", 1, 1.0)
    theta = fields.number("rope_theta", default=config.number("rope_theta", default=DEFAULT_THETA))
    return theta, _scaling(fields, kind_key="type" if fields.get("rope_type") is None else "rope_type")


def _scaling(fields: Fields, *, kind_key: str) -> RopeScaling | None:
    fields.require(kind_key, "default", "linear", "llama3")
    kind = fields.get(kind_key)
    if kind == "linear":
        return RopeScaling(kind="linear", factor=fields.number("factor"))
    if kind == "llama3":
        scaling = RopeScaling(
            kind="llama3",
            factor=fields.number("factor"),
            low_freq_factor=fields.number("low_freq_factor"),
            high_freq_factor=fields.number("high_freq_factor"),
            original_context=fields.integer("original_max_position_embeddings", high=MAX_CONTEXT),
        )
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            fields.refuse("low_freq_factor", "expected less than high_freq_factor")
        return scaling
    if kind is None and fields.get("factor") is not None:
        fields.refuse("rope_type", "expected a kind, since there is a factor")
    return None


def llama3_factors(spec: ModelSpec, scaling: RopeScaling) -> list[float]:
    """What each of the `head_dim / 2` rotary frequencies is divided by (Llama 3.1's frequency blend)."""
    return [_llama3_factor(spec.rope_theta ** (-2 * i / spec.head_dim), scaling) for i in range(spec.head_dim // 2)]


def _llama3_factor(frequency: float, scaling: RopeScaling) -> float:
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_context / scaling.high_freq_factor:
        return 1.0
    if wavelength > scaling.original_context / scaling.low_freq_factor:
        return scaling.factor
    blend = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return 1.0 / ((1.0 - blend) / scaling.factor + blend)


def scaling_from_factors(
    spec: ModelSpec, factors: Sequence[float], *, where: str, original_context: int | None
) -> RopeScaling | None:
    """Recover the scaling from the factors that a GGUF file stores in `rope_freqs.weight`.

    Tried are Llama 3.1's blend at the model's original context (metadata, else 8192) and a constant factor.
    Raises `UnsupportedModel` if none reproduces the factors: better than slightly wrong attention.
    """
    if len(factors) != spec.head_dim // 2 or not all(0 < factor < math.inf for factor in factors):
        raise UnsupportedModel(f"{where}: expected {spec.head_dim // 2} positive factors, found {len(factors)}")
    if _close(factors, [1.0] * len(factors)):
        return None
    largest = max(factors)
    if _close(factors, [largest] * len(factors)):
        return RopeScaling(kind="linear", factor=largest)
    for context in dict.fromkeys([original_context or _LLAMA3_CONTEXT, _LLAMA3_CONTEXT]):
        scaling = RopeScaling(kind="llama3", factor=largest, original_context=context)
        if _close(factors, llama3_factors(spec, scaling)):
            return scaling
    raise UnsupportedModel(f"{where}: these rotary factors follow neither the llama3 blend nor a constant")


def _close(found: Sequence[float], expected: Sequence[float]) -> bool:
    return all(abs(a - b) <= _FACTOR_TOLERANCE * b for a, b in zip(found, expected, strict=True))
