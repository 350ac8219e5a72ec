"""Spelling of tokens in vocabularies: bytes, spaces and control tokens."""

from __future__ import annotations

import itertools
import re

SPACE_MARK = "▁"
"""U+2581, which SentencePiece writes for a space."""

BYTE_BY_TOKEN = {f"<0x{byte:02X}>": byte for byte in range(256)}
"""The byte tokens of SentencePiece."""

_BARRED = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)


def _byte_by_character() -> dict[str, int]:
    """GPT-2's `bytes_to_unicode`, inverted: printable Latin-1 stands for itself, other bytes start at U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return {chr(byte if byte in printable else next(others)): byte for byte in range(256)}


BYTE_BY_CHARACTER = _byte_by_character()
"""The byte alphabet of byte-level BPE."""


def byte_level(token: str) -> bytes:
    """Bytes of a byte-level BPE token; text outside the byte alphabet stands for itself."""
    try:
        return bytes(map(BYTE_BY_CHARACTER.__getitem__, token))
    except KeyError:
        return literal(token)


def sentencepiece(token: str) -> bytes:
    """Bytes of a SentencePiece piece: `<0x0A>` is one byte, `▁` a space."""
    byte = BYTE_BY_TOKEN.get(token)
    return spaced(token) if byte is None else bytes([byte])


def spaced(token: str) -> bytes:
    """Bytes of a SentencePiece piece that is not a byte token."""
    return literal(token.replace(SPACE_MARK, " "))


def literal(token: str) -> bytes:
    """Bytes of a token that is written as it is."""
    return token.encode("utf-8", errors="replace")


def looks_like_control(token: str) -> bool:
    """True if a token is spelled `<|…|>` or `<｜…｜>`, as turn markers are (llama.cpp's converter judges alike)."""
    return _BARRED.fullmatch(token) is not None
