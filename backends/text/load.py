"""The text side of a model, from its path: tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.text.gguf_tokenizer import build_from_metadata
from backends.text.huggingface import build_from_folder
from backends.text.template import ChatTemplate, TemplateSource, template_of_folder, template_of_metadata
from backends.text.tokenizer import Tokenizer
from backends.text.tokenizer_files import TokenizerConfig, read_config
from backends.weights.gguf import read_metadata


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
        config = read_config(path, TokenizerConfig)
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
        return build_from_folder(path, read_config(path, TokenizerConfig))
    return build_from_metadata(read_metadata(path), where=str(path))


def read_template(path: Path) -> TemplateSource | None:
    """The chat template alone, not compiled. Raises `ModelError` for a missing or damaged file."""
    if path.is_dir():
        return template_of_folder(path, read_config(path, TokenizerConfig))
    return template_of_metadata(read_metadata(path), where=str(path))
