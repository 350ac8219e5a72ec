"""The tokenizer of a Hugging Face folder: tokenizer.json and, beside it, tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path

import tokenizers

from backends.errors import ModelError, UnsupportedModel
from backends.text import spelling
from backends.text.tokenizer import Tokenizer, vocabulary_faults
from backends.text.tokenizer_files import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    Json,
    TokenizerConfig,
    TokenName,
    build_engine,
    prefix_ids,
    steps,
    token_text,
)
from backends.weights.files import read_json

_TRIAL = "Trial 1:\n  ünïcode"  # shows faults that reading alone does not
_KEEPING_STEPS = {"ByteLevel", "Digits", "Metaspace"}


def build_from_folder(folder: Path, config: TokenizerConfig) -> Tokenizer:
    """Raises `ModelError` for a missing or damaged file, `UnsupportedModel` for an unknown way to spell bytes."""
    path = folder / TOKENIZER_FILE
    if not path.exists():
        raise ModelError(
            f"{path}: no such file; the tokenizer is read from {TOKENIZER_FILE}, which `save_pretrained` of "
            "transformers' fast tokenizers writes (other files, such as tokenizer.model, are not read)"
        )
    document = _with_plain_specials(read_json(path, Json))
    with vocabulary_faults(str(path)):
        return _build(folder, config, document)


def _build(folder: Path, config: TokenizerConfig, document: Json) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    engine = build_engine(document)
    engine.encode(_TRIAL)
    _check_added_ids(engine, document, where=str(path))
    bos_id = _token_id(engine, config.bos_token, where=str(folder / CONFIG_FILE))
    eos_id = _token_id(engine, config.eos_token, where=str(folder / CONFIG_FILE))
    return Tokenizer(
        engine,
        token_bytes=_token_bytes(engine, document, where=str(path)),
        bos_id=bos_id,
        eos_id=eos_id,
        prefix_ids=prefix_ids(engine, bos_id=bos_id, eos_id=eos_id),
        unknown_id=_unknown_id(engine, document),
        covers_own_bytes=_covers_own_bytes(document, engine.get_vocab(with_added_tokens=False).keys()),
    )


def _with_plain_specials(document: Json) -> Json:
    """Mark all control tokens as special, to be found in the text as it stands.

    A special token sought in *normalized* text could be forged by what normalizes to it, such as full-width letters.
    """
    listed = document.get("added_tokens") or []
    if not isinstance(listed, list):
        return document  # the library refuses it with a message
    added = [_plain_special(token) if isinstance(token, dict) else token for token in listed]
    return {**document, "added_tokens": added}


def _plain_special(token: Json) -> Json:
    if not token.get("special") and not spelling.looks_like_control(str(token.get("content"))):
        return token
    return {**token, "special": True, "normalized": False}


def _check_added_ids(engine: tokenizers.Tokenizer, document: Json, *, where: str) -> None:
    """The library numbers added tokens itself, and silently otherwise than the file if ids have gaps."""
    for token in document["added_tokens"]:
        found = engine.token_to_id(token["content"])
        if found != token["id"]:
            raise UnsupportedModel(
                f"{where}: added token {token['content']!r} has id {token['id']}, but follows the vocabulary as {found}"
            )


def _token_id(engine: tokenizers.Tokenizer, token: TokenName, *, where: str) -> int | None:
    content = token_text(token)
    if content is None:
        return None
    token_id: int | None = engine.token_to_id(content)
    if token_id is None:
        raise ModelError(f"{where}: token {content!r} is not in {TOKENIZER_FILE}")
    return token_id


def _unknown_id(engine: tokenizers.Tokenizer, document: Json) -> int | None:
    """The id that stands for text outside the vocabulary, if there is such text."""
    model = document["model"]
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    token = model.get("unk_token")
    return None if token is None else engine.token_to_id(token)


def _token_bytes(engine: tokenizers.Tokenizer, document: Json, *, where: str) -> tuple[bytes, ...]:
    """Bytes by token id; ids without a token stand for no bytes."""
    ordinary: dict[str, int] = engine.get_vocab(with_added_tokens=False)
    added = engine.get_added_tokens_decoder()
    is_byte_level = _is_byte_level(document, where=where)
    spell = spelling.byte_level if is_byte_level else spelling.sentencepiece
    spell_added = spelling.literal if is_byte_level else spelling.spaced
    spelled = {token_id: spell(token) for token, token_id in ordinary.items()}
    for token_id, token in added.items():
        spelled[token_id] = spelling.literal(token.content) if token.special else spell_added(token.content)
    size = max(spelled, default=-1) + 1
    if size > 2 * len(spelled):
        raise ModelError(f"{where}: {len(spelled)} tokens have ids up to {size - 1}")
    return tuple(spelled.get(token_id, b"") for token_id in range(size))


def _is_byte_level(document: Json, *, where: str) -> bool:
    """True if the decoder maps characters to bytes; the alternative is SentencePiece's spelling."""
    decoders = steps(document, "decoder")
    kinds = [str(decoder.get("type")) for decoder in decoders]
    if "ByteLevel" in kinds:
        return True
    if "ByteFallback" in kinds or any(map(_writes_spaces, decoders)):
        return False
    raise UnsupportedModel(
        f"{where}: decoder {' + '.join(kinds) or 'none'} is not supported; supported are ByteLevel, Metaspace and "
        "Replace + ByteFallback"
    )


def _writes_spaces(decoder: Json) -> bool:
    if decoder.get("type") == "Metaspace":
        return decoder.get("replacement") == spelling.SPACE_MARK
    return decoder.get("type") == "Replace" and decoder.get("pattern") == {"String": spelling.SPACE_MARK}


def _covers_own_bytes(document: Json, vocabulary: AbstractSet[str]) -> bool:
    """True if no token stands for more text than its own bytes; `False` when that is not certain.

    Then a text of N times the longest token's bytes has at least N tokens, which is known without counting.
    """
    return (
        _every_byte_is_known(document, vocabulary)
        and all(map(_keeps_length, steps(document, "normalizer")))
        and all(map(_keeps_text, steps(document, "pre_tokenizer")))
        and not any(token["lstrip"] or token["rstrip"] for token in document["added_tokens"])
    )


def _every_byte_is_known(document: Json, vocabulary: AbstractSet[str]) -> bool:
    if document["model"].get("byte_fallback"):
        return vocabulary >= spelling.BYTE_BY_TOKEN.keys()
    is_byte_level = any(step["type"] == "ByteLevel" for step in steps(document, "pre_tokenizer"))
    return is_byte_level and vocabulary >= spelling.BYTE_BY_CHARACTER.keys()


def _keeps_length(step: Json) -> bool:
    return bool(step["type"] == "Prepend" or (step["type"] == "Replace" and step["pattern"] == {"String": " "}))


def _keeps_text(step: Json) -> bool:
    return bool(step["type"] in _KEEPING_STEPS or (step["type"] == "Split" and step["behavior"] != "Removed"))
