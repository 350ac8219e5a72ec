"""Rotary scaling, as Hugging Face configurations write it and as GGUF files hide it in a tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from backends.errors import UnsupportedModel
from backends.models.families.fields import MAX_CONTEXT, Fields
from backends.models.rotary import llama3_factors
from backends.models.spec import ModelSpec, Rope, RopeScaling

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
        "short_factor",
        "long_factor",
        "attention_factor",
    }
)
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
_LLAMA3_CONTEXT = 8192
_FACTOR_TOLERANCE = 1e-4
"""The stored factors went through float32 arithmetic; a wrong parameter moves them by far more."""


class RopeFields(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary embedding settings of a file. `max_context` is less than the file's under LongRoPE."""

    theta: float
    scaling: RopeScaling | None
    local_theta: float | None = None
    max_context: int
    notes: tuple[str, ...] = ()


def rope_from_config(config: Fields, where: str, *, head_dim: int, default_local_theta: float | None) -> RopeFields:
    """Settings of a config.json, old style (`rope_theta`, `rope_scaling`) or new (`rope_parameters`, or by layer)."""
    key = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    values = config.nested(key)
    where = f"{where}: {key}"
    local_theta = default_local_theta
    if default_local_theta is not None:
        local_theta = config.number("rope_local_base_freq", default=default_local_theta)
    if default_local_theta is not None and values.keys() & _LAYER_TYPES:
        local_theta = _local_theta(Fields(values, where=where), where, default=local_theta)
        values = Fields(values, where=where).nested("full_attention")
    fields = _known(values, where)
    theta = fields.number("rope_theta", default=config.number("rope_theta", default=DEFAULT_THETA))
    max_context = config.integer("max_position_embeddings", high=MAX_CONTEXT)
    kind_key = "type" if fields.get("rope_type") is None else "rope_type"
    if fields.get(kind_key) in ("longrope", "su"):
        return _long_rope(config, fields, theta, head_dim=head_dim, max_context=max_context)
    scaling = _scaling(fields, kind_key=kind_key)
    return RopeFields(theta=theta, scaling=scaling, local_theta=local_theta, max_context=max_context)


def _known(values: Mapping[str, object], where: str) -> Fields:
    unknown = sorted(values.keys() - _KNOWN_KEYS)
    if unknown:
        raise UnsupportedModel(f"{where} has the field {unknown[0]!r}, for which this build has no rule")
    fields = Fields(values, where=where)
    fields.require("partial_rotary_factor", 1, 1.0)
    return fields


def _local_theta(fields: Fields, where: str, *, default: float | None) -> float:
    local = _known(fields.nested("sliding_attention"), f"{where}: sliding_attention")
    local.require("rope_type", "default")
    return local.number("rope_theta", default=default)


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


def _long_rope(config: Fields, fields: Fields, theta: float, *, head_dim: int, max_context: int) -> RopeFields:
    """LongRoPE within the original context, where the short factors apply (arXiv:2402.13753).

    Beyond it, every cached key would have to be rotated again by the long factors; so the context ends there.
    """
    key = "original_max_position_embeddings"
    original = (config if config.get(key) is not None else fields).integer(key, low=2, high=MAX_CONTEXT)
    factors = _factors(fields, "short_factor", head_dim // 2)
    amplitude = fields.number("attention_factor", default=long_rope_amplitude(max_context / original, original))
    return RopeFields(
        theta=theta,
        scaling=RopeScaling(kind="factors", factors=factors, attention_factor=amplitude),
        max_context=min(original, max_context),
        notes=_long_rope_notes(original, max_context),
    )


def long_rope_amplitude(factor: float, original: int) -> float:
    """Factor of LongRoPE for sine and cosine when the context grew by `factor`."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _long_rope_notes(original: int, max_context: int) -> tuple[str, ...]:
    if max_context <= original:
        return ()
    return (f"context is {original} of the model's {max_context} tokens: LongRoPE's long factors are not supported",)


def _factors(fields: Fields, key: str, count: int) -> tuple[float, ...]:
    values = fields.get(key)
    good = isinstance(values, list | tuple) and len(values) == count
    if not isinstance(values, list | tuple) or not good or not all(_is_factor(value) for value in values):
        fields.refuse(key, f"expected {count} positive factors")
    return tuple(float(value) for value in values)


def _is_factor(value: object) -> bool:
    return (type(value) is int or type(value) is float) and 0 < value < math.inf


def long_rope_from_factors(
    factors: Sequence[float], *, where: str, head_dim: int, original: int, max_context: int, amplitude: float | None
) -> tuple[RopeScaling, int, tuple[str, ...]]:
    """(scaling, context, notes) of a GGUF file's `rope_factors_short.weight`."""
    if len(factors) != head_dim // 2 or not all(0 < factor < math.inf for factor in factors):
        raise UnsupportedModel(f"{where}: expected {head_dim // 2} positive factors, found {len(factors)}")
    if amplitude is None:
        amplitude = long_rope_amplitude(max_context / original, original)
    scaling = RopeScaling(kind="factors", factors=tuple(factors), attention_factor=amplitude)
    return scaling, min(original, max_context), _long_rope_notes(original, max_context)


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
        if _close(factors, llama3_factors(Rope(spec.rope_theta, scaling), spec.head_dim)):
            return scaling
    raise UnsupportedModel(f"{where}: these rotary factors follow neither the llama3 blend nor a constant")


def _close(found: Sequence[float], expected: Sequence[float]) -> bool:
    return all(abs(a - b) <= _FACTOR_TOLERANCE * b for a, b in zip(found, expected, strict=True))
