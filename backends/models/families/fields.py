"""Typed, bounded access to untrusted configuration values; every error names the file and the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn, cast

from backends.errors import ModelError, UnsupportedModel
from backends.models.spec import ModelSpec

MAX_HIDDEN = 1 << 20
MAX_LAYERS = 1 << 10
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 12
MAX_FFN = 1 << 22
MAX_EXPERTS = 1 << 10
MAX_VOCAB = (1 << 24) - 1
MAX_CONTEXT = 1 << 26


def default_head_dim(where: str, *, hidden_size: int, num_heads: int) -> int:
    """Hidden size divided by the number of heads, which must come out even."""
    if hidden_size % num_heads:
        raise ModelError(f"{where}: hidden size {hidden_size} is not divisible by {num_heads} attention heads")
    return hidden_size // num_heads


def check_consistent(spec: ModelSpec, where: str) -> ModelSpec:
    """Return `spec` unchanged. Raises `ModelError` where its numbers contradict each other."""
    if spec.num_heads % spec.num_kv_heads:
        raise ModelError(
            f"{where}: {spec.num_heads} attention heads are not divisible by {spec.num_kv_heads} key/value heads"
        )
    if spec.head_dim % 2:
        raise ModelError(f"{where}: head size {spec.head_dim} is odd; rotary embeddings need pairs")
    return spec


class Fields:
    """A mapping read field by field. A field set to null counts as absent.

    `where` names the file; `prefix` is put before every key, such as `llama.` in GGUF metadata.
    """

    def __init__(self, values: Mapping[str, object], *, where: str, prefix: str = "") -> None:
        self._values = values
        self._where = where
        self._prefix = prefix

    def get(self, key: str) -> object:
        """The raw value, `None` if absent."""
        return self._values.get(self._prefix + key)

    def integer(self, key: str, *, default: int | None = None, low: int = 1, high: int) -> int:
        """A whole number within [low, high]. Without a default the field must be there."""
        value = self._or_default(key, default)
        if type(value) is not int or not low <= value <= high:
            self.refuse(key, f"expected a whole number from {low} to {high}")
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """A positive finite number. Without a default the field must be there."""
        value = self._or_default(key, default)
        if type(value) is not int and type(value) is not float:
            self.refuse(key, "expected a number")
        try:
            number = float(value)  # an int may be too large
        except OverflowError:
            number = math.inf
        if not 0 < number < math.inf:
            self.refuse(key, "expected a positive finite number")
        return number

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._or_default(key, default)
        if type(value) is not bool:
            self.refuse(key, "expected true or false")
        return value

    def nested(self, key: str) -> Mapping[str, object]:
        """An object; empty if absent."""
        value = self._or_default(key, {})
        if not isinstance(value, dict):
            self.refuse(key, "expected an object")
        return value

    def require(self, key: str, *accepted: object) -> None:
        """Raise `UnsupportedModel` unless the field is absent or has one of these values."""
        value = self.get(key)
        if value is None or any(type(value) is type(item) and value == item for item in accepted):
            return
        wanted = "only " + " or ".join(repr(item) for item in accepted) if accepted else "only models without it"
        raise UnsupportedModel(self.describe(key, f"this build supports {wanted}"))

    def token_ids(self, key: str, *, vocab_size: int) -> tuple[int, ...]:
        """One token id or a list of them; empty if absent."""
        value = self.get(key)
        items = value if isinstance(value, list | tuple) else [] if value is None else [value]
        for item in items:
            if type(item) is not int or not 0 <= item < vocab_size:
                self.refuse(key, f"expected token ids from 0 to {vocab_size - 1}")
        return tuple(dict.fromkeys(cast(Sequence[int], items)))

    def has(self, key: str) -> bool:
        """True if the field is present, even as null."""
        return self._prefix + key in self._values

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise `ModelError` for a field."""
        raise ModelError(self.describe(key, expected))

    def describe(self, key: str, expected: str) -> str:
        """A message that names file, field, value and what was expected."""
        value = self.get(key)
        found = "is missing" if value is None else f"is {_short(value)}"
        return f"{self._where}: {self._prefix}{key} {found}; {expected}"

    def _or_default(self, key: str, default: object) -> object:
        value = self.get(key)
        return default if value is None else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
