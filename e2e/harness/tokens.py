"""Independent tokenizer and chat template of a model, read from its own files with `tokenizers` and Jinja."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import jinja2
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from e2e.harness.forward import gguf_value

# llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Vocabulary:
    """Text to ids and back, as bytes; special tokens have no bytes."""

    def __init__(
        self, tokenizer: Tokenizer, *, special: set[int], eos: set[int], bos: int | None, template: str
    ) -> None:
        self.tokenizer = tokenizer
        self.special = special
        self.eos = eos
        self.bos = bos
        """Put before raw text; None where the model wants none."""
        self._template = template
        self._bytes_of_character = {character: byte for byte, character in _byte_characters().items()}

    @property
    def size(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def text_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids if self.bos is None else [self.bos, *ids]

    def chat_ids(self, messages: list[dict[str, str]]) -> list[int]:
        template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(self._template)
        text = template.render(messages=messages, add_generation_prompt=True)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def piece(self, token_id: int) -> bytes:
        """Bytes of one token; none for a special one."""
        if token_id in self.special:
            return b""
        spelling = self.tokenizer.id_to_token(token_id)
        assert spelling is not None, f"the vocabulary has no token {token_id}"
        return bytes(self._bytes_of_character[character] for character in spelling)

    def text(self, ids: list[int]) -> str:
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary from a Hugging Face folder with `tokenizer.json`, or a GGUF file with a `gpt2` tokenizer."""
    return _from_folder(path) if path.is_dir() else _from_gguf(path)


def _from_folder(path: Path) -> Vocabulary:
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    settings = _json(path / "tokenizer_config.json")
    eos = _json(path / "config.json").get("eos_token_id")
    template = settings.get("chat_template") or ""
    added: dict[int, Any] = tokenizer.get_added_tokens_decoder()  # Any: tokenizers has no stubs
    special = {index for index, token in added.items() if token.special}
    bos = tokenizer.token_to_id(settings["bos_token"]) if settings.get("add_bos_token") else None
    return Vocabulary(tokenizer, special=special, eos=_ids(eos), bos=bos, template=template)


def _from_gguf(path: Path) -> Vocabulary:
    reader = gguf.GGUFReader(path)
    tokens: list[str] = gguf_value(reader, "tokenizer.ggml.tokens")
    types: list[int] = gguf_value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in gguf_value(reader, "tokenizer.ggml.merges")]
    assert gguf_value(reader, "tokenizer.ggml.pre") == "qwen2", "this reference knows the qwen2 pre-tokenizer only"
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    split = pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special = {index for index, kind in enumerate(types) if kind == gguf.TokenType.CONTROL}
    tokenizer.add_special_tokens([tokens[index] for index in sorted(special)])
    wants_bos = bool(gguf_value(reader, "tokenizer.ggml.add_bos_token", False))
    bos = int(gguf_value(reader, "tokenizer.ggml.bos_token_id")) if wants_bos else None
    eos = {int(gguf_value(reader, "tokenizer.ggml.eos_token_id"))}
    template: str = gguf_value(reader, "tokenizer.chat_template", "{# none #}")
    return Vocabulary(tokenizer, special=special, eos=eos, bos=bos, template=template)


def _json(path: Path) -> dict[str, Any]:  # Any: JSON of a foreign format
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _ids(value: int | list[int] | None) -> set[int]:
    if value is None:
        return set()
    return set(value) if isinstance(value, list) else {value}


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte (openai/gpt-2, `encoder.py`, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in table]
    return table | {byte: chr(256 + place) for place, byte in enumerate(others)}
