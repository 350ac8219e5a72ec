"""What a kind of tokenizer contributes."""

from __future__ import annotations

import msgspec

from backends.weights.gguf.writer import EncodedValue


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of tokens and merges; see `VocabularyMetadata`."""

    metadata: dict[str, EncodedValue]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
