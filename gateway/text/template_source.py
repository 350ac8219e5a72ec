"""Where a model keeps its chat template."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.errors import ModelError
from backends.weights.gguf import Metadata
from backends.weights.regular_file import open_regular
from gateway.text.huggingface import CONFIG_FILE, TokenizerConfig

_JINJA_FILE = "chat_template.jinja"
_KEY = "tokenizer.chat_template"
_DEFAULT = "default"
_MAX_BYTES = 1 << 20


class TemplateSource(msgspec.Struct, frozen=True):
    """`where` names the file, for messages."""

    text: str
    where: str


def template_of_folder(folder: Path, config: TokenizerConfig) -> TemplateSource | None:
    """chat_template.jinja, else the template in tokenizer_config.json, of several the one named `default`."""
    path = folder / _JINJA_FILE
    if path.exists():
        return TemplateSource(_read(path), str(path))
    where = str(folder / CONFIG_FILE)
    if config.chat_template is None:
        return None
    if isinstance(config.chat_template, str):
        return TemplateSource(config.chat_template, where)
    named = {template.name: template.template for template in config.chat_template}
    if _DEFAULT not in named:
        raise ModelError(f"{where}: chat_template lists {', '.join(named) or 'nothing'}, but none named {_DEFAULT!r}")
    return TemplateSource(named[_DEFAULT], where)


def template_of_metadata(metadata: Metadata, *, where: str) -> TemplateSource | None:
    """The template that a GGUF file holds."""
    text = metadata.get(_KEY)
    if text is None:
        return None
    if not isinstance(text, str):
        raise ModelError(f"{where}: {_KEY} is not a string")
    return TemplateSource(text, where)


def _read(path: Path) -> str:
    with open_regular(path) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ModelError(f"{path}: larger than {_MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8: {error}") from error
