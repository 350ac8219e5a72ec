"""tokenizer.json → the `tokenizer.*` metadata of GGUF files.

Two kinds have words there: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`). What the words cannot say is a
fault; a fault ends quantizing unless the caller accepts it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.models.spec import ModelSpec
from backends.quantize.vocabulary.added import added_token_faults
from backends.quantize.vocabulary.byte_level import byte_level_metadata
from backends.quantize.vocabulary.document import TokenizerDocument, is_byte_level, read_document
from backends.quantize.vocabulary.ends import end_metadata
from backends.quantize.vocabulary.sentencepiece import sentencepiece_metadata
from backends.quantize.vocabulary.templates import template_metadata
from backends.quantize.vocabulary.tokens import token_list
from backends.weights.gguf.writer import EncodedValue

__all__ = ["VocabularyMetadata", "vocabulary_of_folder"]


class VocabularyMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata pairs, and sentences on what they cannot express (`faults`) or are worth knowing (`notes`)."""

    metadata: dict[str, EncodedValue]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def vocabulary_of_folder(folder: Path, spec: ModelSpec) -> VocabularyMetadata:
    """Tokenizer and chat template of a Hugging Face folder.

    Raises `ModelError` for damage and `UnsupportedModel` for a kind of tokenizer without words in GGUF files.
    """
    document = read_document(folder)
    tokens = token_list(document, vocab_size=spec.vocab_size)
    build = byte_level_metadata if is_byte_level(document) else sentencepiece_metadata
    body = build(document, tokens)
    ends, end_faults = end_metadata(folder, document, spec)
    return VocabularyMetadata(
        metadata=body.metadata | ends | template_metadata(folder),
        notes=body.notes + _padding_note(document, spec),
        faults=body.faults + added_token_faults(document) + end_faults,
    )


def _padding_note(document: TokenizerDocument, spec: ModelSpec) -> tuple[str, ...]:
    missing = spec.vocab_size - document.num_tokens
    return (f"{missing} rows of the embedding have no token; they are named [PAD…]",) if missing else ()
