"""The components of a tokenizer.json (normalizer, pre-tokenizer, decoder), each one step or a sequence of steps."""

from __future__ import annotations

from typing import Any

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
