"""The text side of a model, from its path: tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.errors import ModelError, UnsupportedModel
from backends.text.byte_bpe import build_byte_bpe
from backends.text.gguf_vocabulary import read_vocabulary, vocabulary_faults
from backends.text.huggingface import build_from_folder, read_config
from backends.text.sentencepiece_bpe import build_sentencepiece_bpe
from backends.text.template import ChatTemplate, template_of_folder, template_of_metadata
from backends.text.tokenizer import Tokenizer
from backends.weights.gguf import Metadata, read_metadata

_KIND_KEY = "tokenizer.ggml.model"
_BUILDERS = {"gpt2": build_byte_bpe, "llama": build_sentencepiece_bpe}


class ModelText(msgspec.Struct, frozen=True):
    """`template` is `None` for a model without one; it then serves completions, not chat."""

    tokenizer: Tokenizer
    template: ChatTemplate | None


def load_text(path: Path) -> ModelText:
    """Tokenizer and template of a Hugging Face folder or a GGUF file, each read once.

    Takes up to seconds for a large vocabulary; call it off the event loop. Raises `ModelError` (missing or damaged
    file, unsafe template) or its subclass `UnsupportedModel`, which names what is supported.
    """
    if path.is_dir():
        config = read_config(path)
        tokenizer, source = build_from_folder(path, config), template_of_folder(path, config)
    else:
        metadata = read_metadata(path)
        tokenizer, source = (
            build_from_metadata(metadata, where=str(path)),
            template_of_metadata(metadata, where=str(path)),
        )
    return ModelText(tokenizer, None if source is None else ChatTemplate(source.text, where=source.where))


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer alone; raises like `load_text`."""
    if path.is_dir():
        return build_from_folder(path, read_config(path))
    return build_from_metadata(read_metadata(path), where=str(path))


def build_from_metadata(metadata: Metadata, *, where: str) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata. Raises `UnsupportedModel` for another kind than `gpt2` or `llama`."""
    kind = metadata.get(_KIND_KEY)
    if kind is None:
        raise ModelError(f"{where}: {_KIND_KEY} is missing; convert the model with its tokenizer")
    build = _BUILDERS.get(str(kind))
    if build is None:
        raise UnsupportedModel(f"{where}: {_KIND_KEY} is {kind!r}; supported are {', '.join(_BUILDERS)}")
    vocabulary = read_vocabulary(metadata, where=where)
    with vocabulary_faults(f"{where}: tokenizer.ggml"):
        return build(vocabulary)
