"""Files that hold the tokenizer of a Hugging Face folder: tokenizer.json, and the names in tokenizer_config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
import tokenizers

from backends.weights.files import read_json

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_MAP_FILE = "special_tokens_map.json"

Json = dict[str, Any]  # tokenizer.json has open keys; the tokenizers library checks all that it reads


class NamedToken(msgspec.Struct, frozen=True):
    """A token written as an object; its other fields repeat tokenizer.json."""

    content: str


TokenName: TypeAlias = str | NamedToken | None


class NamedTemplate(msgspec.Struct, frozen=True):
    """One of several chat templates."""

    name: str
    template: str


class TokenizerConfig(msgspec.Struct, frozen=True):
    """The fields of tokenizer_config.json that matter for serving."""

    bos_token: TokenName = None
    eos_token: TokenName = None
    chat_template: str | list[NamedTemplate] | None = None


ConfigT = TypeVar("ConfigT", bound=TokenizerConfig)


def read_config(folder: Path, kind: type[ConfigT]) -> ConfigT:
    """tokenizer_config.json, or special_tokens_map.json of older models; all defaults if there is neither."""
    for name in (CONFIG_FILE, _MAP_FILE):
        if (folder / name).exists():
            return read_json(folder / name, kind)
    return kind()


def token_text(token: TokenName) -> str | None:
    """The text of a token that tokenizer_config.json names."""
    return token.content if isinstance(token, NamedToken) else token


_CHILDREN = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def steps(document: Json, component: str) -> list[Json]:
    """The steps of a component of tokenizer.json in order, sequences unfolded; none if it is absent."""
    part = document.get(component)
    return [] if part is None else _unfolded(part, _CHILDREN[component])


def _unfolded(part: Json, children: str) -> list[Json]:
    if part.get("type") != "Sequence":
        return [part]
    return [step for child in part[children] for step in _unfolded(child, children)]


def build_engine(document: Json) -> tokenizers.Tokenizer:
    """The library's tokenizer, without truncation and padding. Raises as the library does: see `vocabulary_faults`."""
    return tokenizers.Tokenizer.from_buffer(msgspec.json.encode({**document, "truncation": None, "padding": None}))


def prefix_ids(engine: tokenizers.Tokenizer, *, bos_id: int | None, eos_id: int | None) -> tuple[int, ...]:
    """Ids that the post-processor puts before a text; `add_bos_token` is ignored, as in transformers 5.

    A closing EOS is left out, since a prompt is to be continued.
    """
    ids: list[int] = engine.encode("").ids
    if ids and ids[-1] == eos_id != bos_id:
        ids = ids[:-1]
    return tuple(ids)
