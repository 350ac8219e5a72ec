"""The chat template of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.errors import ModelError
from backends.weights.files import open_regular, read_json
from backends.weights.gguf.writer import EncodedValue, Kind, array, scalar

_KEY = "tokenizer.chat_template"
_JINJA_FILE, _CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"
_DEFAULT = "default"
_MAX_BYTES = 1 << 20


class NamedTemplate(msgspec.Struct, frozen=True):
    """One of several templates."""

    name: str
    template: str


class _Config(msgspec.Struct, frozen=True):
    chat_template: str | list[NamedTemplate] | None = None


def template_metadata(folder: Path) -> dict[str, EncodedValue]:
    """chat_template.jinja, else the templates of tokenizer_config.json; nothing if there is none."""
    if (folder / _JINJA_FILE).exists():
        return {_KEY: scalar(Kind.STRING, _read(folder / _JINJA_FILE))}
    config = _Config()
    if (folder / _CONFIG_FILE).exists():
        config = read_json(folder / _CONFIG_FILE, _Config)
    if config.chat_template is None:
        return {}
    if isinstance(config.chat_template, str):
        return {_KEY: scalar(Kind.STRING, config.chat_template)}
    return _several(config.chat_template)


def _several(templates: list[NamedTemplate]) -> dict[str, EncodedValue]:
    """As the gguf package writes them: the default one, and the others under their names."""
    keys = {template.name: f"{_KEY}.{template.name}" for template in templates} | {_DEFAULT: _KEY}
    metadata = {keys[template.name]: scalar(Kind.STRING, template.template) for template in templates}
    others = [template.name for template in templates if template.name != _DEFAULT]
    return metadata | ({"tokenizer.chat_templates": array(Kind.STRING, others)} if others else {})


def _read(path: Path) -> str:
    with open_regular(path) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ModelError(f"{path}: larger than {_MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8: {error}") from error
