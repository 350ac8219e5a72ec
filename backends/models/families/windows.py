"""Selects the layers with a sliding window."""

from __future__ import annotations

from backends.models.families.fields import MAX_CONTEXT, Fields
from backends.models.families.table import WindowRule

_KINDS = {"full_attention": False, "sliding_attention": True}


def windows_from_config(fields: Fields, rule: WindowRule, *, num_layers: int) -> tuple[int, ...]:
    """`ModelSpec.windows` of a config.json: `layer_types` where given, else the architecture's own rule."""
    size = _size(fields, rule)
    kinds = _layer_types(fields, num_layers) or _by_rule(fields, rule, num_layers)
    if size == 0:
        if fields.get("layer_types") is not None and any(kinds):
            fields.refuse("sliding_window", "expected the size of the window that layer_types asks for")
        return ()
    return _windows(kinds, size)


def windows_from_metadata(fields: Fields, period: int | None, *, num_layers: int) -> tuple[int, ...]:
    """The same for GGUF metadata. Raises `UnsupportedModel` for a window whose layers are not known."""
    key, pattern = "attention.sliding_window", "attention.sliding_window_pattern"
    listed = fields.get(pattern)
    if period is None and not isinstance(listed, tuple):
        fields.require(key, 0)
    if fields.get(key) in (None, 0):
        return ()
    size = fields.integer(key, high=MAX_CONTEXT)
    if isinstance(listed, tuple):
        if len(listed) != num_layers or not all(type(item) is bool for item in listed):
            fields.refuse(pattern, f"expected {num_layers} booleans")
        return _windows(list(listed), size)
    period = fields.integer(pattern, default=period, high=num_layers + 1)
    return _windows(_periodic(period, num_layers), size)


def _size(fields: Fields, rule: WindowRule) -> int:
    if rule.switch is not None and not fields.flag(rule.switch, default=False):
        return 0
    if fields.get("sliding_window") is None and (fields.has("sliding_window") or rule.default is None):
        return 0
    return fields.integer("sliding_window", default=rule.default, high=MAX_CONTEXT)


def _layer_types(fields: Fields, num_layers: int) -> list[bool]:
    kinds = fields.get("layer_types")
    if kinds is None:
        return []
    known = isinstance(kinds, list) and all(isinstance(kind, str) and kind in _KINDS for kind in kinds)
    if not isinstance(kinds, list) or not known or len(kinds) != num_layers:
        fields.refuse("layer_types", f"expected {num_layers} times {' or '.join(_KINDS)}")
    return [_KINDS[kind] for kind in kinds]


def _by_rule(fields: Fields, rule: WindowRule, num_layers: int) -> list[bool]:
    first = 0
    if rule.first_layer_field is not None:
        first = fields.integer(rule.first_layer_field, default=rule.first_layer, low=0, high=MAX_CONTEXT)
    period = fields.integer("sliding_window_pattern", default=rule.period, high=MAX_CONTEXT)
    return [layer >= first and windowed for layer, windowed in enumerate(_periodic(period, num_layers))]


def _periodic(period: int, num_layers: int) -> list[bool]:
    return [period == 1 or (layer + 1) % period != 0 for layer in range(num_layers)]


def _windows(kinds: list[bool], size: int) -> tuple[int, ...]:
    return tuple(size if windowed else 0 for windowed in kinds) if any(kinds) else ()
