"""Steps of a tokenizer.json pipeline, and whether they let text vanish before it becomes tokens."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from backends.text.token_bytes import BYTE_BY_CHARACTER

Json = dict[str, Any]  # tokenizer.json has open keys; the tokenizers library checks all that it reads

_CHILDREN = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def steps(document: Json, component: str) -> list[Json]:
    """The steps of a component in order, sequences unfolded; none if it is absent."""
    part = document.get(component)
    return [] if part is None else _unfolded(part, _CHILDREN[component])


def _unfolded(part: Json, children: str) -> list[Json]:
    if part.get("type") != "Sequence":
        return [part]
    return [step for child in part[children] for step in _unfolded(child, children)]


_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_KEEPING_CUTS = {"ByteLevel", "Digits", "Metaspace"}


def covers_own_bytes(document: Json, vocabulary: AbstractSet[str]) -> bool:
    """Whether no token stands for more text than its own bytes; `False` when that is not certain.

    Then a text of N times the longest token's bytes has at least N tokens, which is known without counting.
    """
    return (
        _every_byte_is_known(document, vocabulary)
        and all(map(_keeps_length, steps(document, "normalizer")))
        and all(map(_keeps_text, steps(document, "pre_tokenizer")))
        and not any(token["lstrip"] or token["rstrip"] for token in document["added_tokens"])
    )


def _every_byte_is_known(document: Json, vocabulary: AbstractSet[str]) -> bool:
    if document["model"].get("byte_fallback"):
        return vocabulary >= _BYTE_TOKENS
    is_byte_level = any(step["type"] == "ByteLevel" for step in steps(document, "pre_tokenizer"))
    return is_byte_level and vocabulary >= BYTE_BY_CHARACTER.keys()


def _keeps_length(step: Json) -> bool:
    return bool(step["type"] == "Prepend" or (step["type"] == "Replace" and step["pattern"] == {"String": " "}))


def _keeps_text(step: Json) -> bool:
    return bool(step["type"] in _KEEPING_CUTS or (step["type"] == "Split" and step["behavior"] != "Removed"))
