"""The vocabulary in a GGUF file's metadata, checked before anything is built from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from typing import TypeVar

import msgspec

from backends.errors import BackendError, ModelError
from backends.text.standins import looks_like_control
from backends.weights.gguf import Metadata


@contextmanager
def vocabulary_faults(where: str) -> Generator[None]:
    """Turn every fault of the block into a `ModelError` that begins with `where`.

    The library raises bare `Exception`, and where it is less careful its Rust code panics, which is no `Exception`.
    """
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        raise ModelError(f"{where}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the class cannot be imported
            raise
        raise ModelError(f"{where}: the tokenizers library fails on this vocabulary: {error}") from error


_PREFIX = "tokenizer.ggml."
_MAX_TOKEN_CHARACTERS = 1024  # several times the longest known token; bounds the splits of a piece

T = TypeVar("T")


class TokenType(IntEnum):
    """`enum llama_token_type` of llama.cpp."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class GgufVocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens`, `types` and `scores` are indexed by token id; `scores` may be empty."""

    where: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...]
    merges: tuple[tuple[str, str], ...]
    pre: str
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    add_bos: bool | None
    add_space_prefix: bool


def read_vocabulary(metadata: Metadata, *, where: str) -> GgufVocabulary:
    """Raises `ModelError` naming the key at fault."""
    tokens = _unique(_strings(metadata, "tokens", where), where)
    bos_id, eos_id = (_token_id(metadata, key, len(tokens), where) for key in ("bos_token_id", "eos_token_id"))
    eot_id = _token_id(metadata, "eot_token_id", len(tokens), where)
    types = _types(metadata, tokens, where)
    control = {bos_id, eos_id, eot_id}
    return GgufVocabulary(
        where=where,
        tokens=tokens,
        types=tuple(
            TokenType.CONTROL if token_id in control or _is_disguised(kind, token) else kind
            for token_id, (kind, token) in enumerate(zip(types, tokens, strict=True))
        ),
        scores=_scores(metadata, len(tokens), where),
        merges=_merges(metadata, where),
        pre=_single(metadata, "pre", str, where) or "default",
        bos_id=bos_id,
        eos_id=eos_id,
        unknown_id=_token_id(metadata, "unknown_token_id", len(tokens), where),
        add_bos=_single(metadata, "add_bos_token", bool, where),
        add_space_prefix=_single(metadata, "add_space_prefix", bool, where) is not False,
    )


def _is_disguised(kind: TokenType, token: str) -> bool:
    """Some converters store control tokens as user-defined ones."""
    return kind == TokenType.USER_DEFINED and looks_like_control(token)


def _single(metadata: Metadata, key: str, kind: type[T], where: str) -> T | None:
    value = metadata.get(_PREFIX + key)
    if value is None:
        return None
    if type(value) is not kind:
        raise ModelError(f"{where}: {_PREFIX}{key} is {value!r}; expected {kind.__name__}")
    return value  # ty: ignore[invalid-explicit-return]  # it does not follow `type(value) is kind`


def _array(metadata: Metadata, key: str, kinds: tuple[type, ...], where: str) -> tuple[object, ...]:
    value = metadata.get(_PREFIX + key, ())
    if not isinstance(value, tuple) or not all(type(item) in kinds for item in value):
        raise ModelError(f"{where}: {_PREFIX}{key} is not an array of {kinds[0].__name__}")
    return value


def _strings(metadata: Metadata, key: str, where: str) -> tuple[str, ...]:
    return tuple(item for item in _array(metadata, key, (str,), where) if isinstance(item, str))


def _unique(tokens: tuple[str, ...], where: str) -> tuple[str, ...]:
    if not tokens:
        raise ModelError(f"{where}: {_PREFIX}tokens is missing or empty; convert the model with its tokenizer")
    named = tuple(token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(tokens))  # as llama.cpp does
    if max(map(len, named)) > _MAX_TOKEN_CHARACTERS:
        raise ModelError(f"{where}: {_PREFIX}tokens holds a token of more than {_MAX_TOKEN_CHARACTERS} characters")
    if len(set(named)) < len(named):
        twice, _ = Counter(named).most_common(1)[0]
        raise ModelError(f"{where}: {_PREFIX}tokens holds {twice!r} twice")
    return named


def _types(metadata: Metadata, tokens: tuple[str, ...], where: str) -> tuple[TokenType, ...]:
    raw = _array(metadata, "token_type", (int,), where)
    if not raw:
        return (TokenType.NORMAL,) * len(tokens)
    if len(raw) != len(tokens):
        raise ModelError(f"{where}: {_PREFIX}token_type has {len(raw)} items for {len(tokens)} tokens")
    known = {kind.value for kind in TokenType}
    return tuple(TokenType(kind) if kind in known else TokenType.UNDEFINED for kind in raw)


def _scores(metadata: Metadata, num_tokens: int, where: str) -> tuple[float, ...]:
    raw = _array(metadata, "scores", (float,), where)
    scores = tuple(item for item in raw if isinstance(item, float))
    if scores and len(scores) != num_tokens:
        raise ModelError(f"{where}: {_PREFIX}scores has {len(scores)} items for {num_tokens} tokens")
    if any(map(math.isnan, scores)):
        raise ModelError(f"{where}: {_PREFIX}scores holds a value that is not a number")
    return scores


def _merges(metadata: Metadata, where: str) -> tuple[tuple[str, str], ...]:
    merges = []
    for merge in _strings(metadata, "merges", where):
        cut = merge.find(" ", 1)
        if cut < 0:
            raise ModelError(f"{where}: {_PREFIX}merges holds {merge!r}; expected two tokens with a space between")
        merges.append((merge[:cut], merge[cut + 1 :]))
    return tuple(merges)


def _token_id(metadata: Metadata, key: str, num_tokens: int, where: str) -> int | None:
    value = _single(metadata, key, int, where)
    if value is not None and not 0 <= value < num_tokens:
        raise ModelError(f"{where}: {_PREFIX}{key} is {value}, but there are {num_tokens} tokens")
    return value
