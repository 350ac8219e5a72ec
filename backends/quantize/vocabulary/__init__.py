"""tokenizer.json → the `tokenizer.*` metadata of GGUF files.

Two kinds have words there: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`). What the words cannot say is a
fault; a fault ends quantizing unless the caller accepts it.
"""

from __future__ import annotations

from backends.quantize.vocabulary.folder import vocabulary_of_folder
from backends.quantize.vocabulary.models import VocabularyMetadata

__all__ = ["VocabularyMetadata", "vocabulary_of_folder"]
