"""Where texts begin and end: BOS, EOS and their like."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.errors import ModelError
from backends.models.spec import ModelSpec
from backends.quantize.vocabulary.document import TokenizerDocument
from backends.weights.files import read_json
from backends.weights.gguf.writer import EncodedValue, Kind, scalar

_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_MORE_ENDS = ("eot_token_id", "eom_token_id")


class NamedToken(msgspec.Struct, frozen=True):
    """A token written as an object."""

    content: str


class SpecialTokens(msgspec.Struct, frozen=True):
    """The fields of tokenizer_config.json that name tokens."""

    bos_token: str | NamedToken | None = None
    eos_token: str | NamedToken | None = None
    pad_token: str | NamedToken | None = None


def end_metadata(
    folder: Path, document: TokenizerDocument, spec: ModelSpec
) -> tuple[dict[str, EncodedValue], tuple[str, ...]]:
    """(metadata, faults). Raises `ModelError` for a named token that does not exist."""
    named = _read(folder)
    bos = _token_id(named.bos_token, document)
    eos = _token_id(named.eos_token, document)
    prefix = _prefix_ids(document, bos=bos, eos=eos)
    begin = bos if bos is not None else spec.bos_token_id
    faults: tuple[str, ...] = ()
    if prefix and begin is None:
        begin = prefix[0]
    if prefix not in ((), (begin,)):
        faults = (f"texts begin with the tokens {list(prefix)}; GGUF metadata can only say: with BOS or not",)
    ids = {"bos_token_id": begin, "padding_token_id": _known_id(named.pad_token, document)}
    ends = _ordered_ends(eos, spec)
    ids |= dict(zip(("eos_token_id", *_MORE_ENDS), ends, strict=False))
    metadata = {
        f"tokenizer.ggml.{key}": scalar(Kind.UINT32, token_id) for key, token_id in ids.items() if token_id is not None
    }
    metadata["tokenizer.ggml.add_bos_token"] = scalar(Kind.BOOL, bool(prefix))
    return metadata, faults


def _read(folder: Path) -> SpecialTokens:
    for name in _FILES:
        if (folder / name).exists():
            return read_json(folder / name, SpecialTokens)
    return SpecialTokens()


def _token_id(token: str | NamedToken | None, document: TokenizerDocument) -> int | None:
    token_id = _known_id(token, document)
    if token is not None and token_id is None:
        content = token.content if isinstance(token, NamedToken) else token
        raise ModelError(f"{document.where}: token {content!r}, which {_FILES[0]} names, does not exist")
    return token_id


def _known_id(token: str | NamedToken | None, document: TokenizerDocument) -> int | None:
    content = token.content if isinstance(token, NamedToken) else token
    if content is None:
        return None
    added = {known.content: known.id for known in document.added}
    return added.get(content, document.model.vocab.get(content))


def _ordered_ends(eos: int | None, spec: ModelSpec) -> list[int]:
    """The tokenizer's own EOS first; a file has room for two more, and readers know many by their text."""
    first = [] if eos is None else [eos]
    return list(dict.fromkeys([*first, *spec.eos_token_ids]))


def _prefix_ids(document: TokenizerDocument, *, bos: int | None, eos: int | None) -> tuple[int, ...]:
    """What the post-processor puts before a text; a closing EOS is left out, since a prompt is to be continued."""
    import tokenizers  # takes a moment, and only folders need it

    plain = {**document.raw, "truncation": None, "padding": None}
    try:
        ids: list[int] = tokenizers.Tokenizer.from_buffer(msgspec.json.encode(plain)).encode("").ids
    except Exception as error:  # the library raises bare `Exception`
        raise ModelError(f"{document.where}: {error}") from error
    if ids and ids[-1] == eos != bos:
        ids = ids[:-1]
    return tuple(ids)
