"""tokenizer.json, read into types: the parts that GGUF metadata has words for, and its tokens by id."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.errors import ModelError, UnsupportedModel
from backends.text import spelling
from backends.text.gguf_vocabulary import TokenizerKey, TokenType
from backends.text.tokenizer_files import TOKENIZER_FILE, Json, steps
from backends.weights.files import decode_json, read_json
from backends.weights.gguf.writer import EncodedValue, Kind, array


class AddedToken(msgspec.Struct, frozen=True):
    """A token that is recognised in text before anything else."""

    id: int
    content: str
    special: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True


class BpeModel(msgspec.Struct, frozen=True):
    """The model of a BPE tokenizer; merges are pairs, in older files joined by a space."""

    vocab: dict[str, int]
    merges: tuple[str | tuple[str, str], ...]
    unk_token: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class TokenizerDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One tokenizer.json. `raw` is the file as it is."""

    where: str
    raw: Json
    model: BpeModel
    added: tuple[AddedToken, ...]

    def steps(self, component: str) -> list[Json]:
        """The steps of a component in order, sequences unfolded; none if it is absent."""
        return steps(self.raw, component)

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Raises `ModelError` for a merge that is no pair."""
        return [self._pair(merge) for merge in self.model.merges]

    @property
    def num_tokens(self) -> int:
        return len(self.model.vocab.keys() | {token.content for token in self.added})

    def _pair(self, merge: str | tuple[str, str]) -> tuple[str, str]:
        if not isinstance(merge, str):
            return merge
        left, space, right = merge.partition(" ")
        if not space or " " in right:
            raise ModelError(f"{self.where}: merge {merge!r} is not two tokens with a space between")
        return left, right


class _ModelKind(msgspec.Struct, frozen=True):
    type: str = "BPE"


class _Document(msgspec.Struct, frozen=True):
    model: msgspec.Raw
    added_tokens: tuple[AddedToken, ...] | None = None


def read_document(folder: Path) -> TokenizerDocument:
    """Raises `ModelError` for a missing or damaged file and `UnsupportedModel` for another model than BPE."""
    path = folder / TOKENIZER_FILE
    if not path.exists():
        raise ModelError(f"{path}: no such file; a GGUF file needs the tokenizer, which `save_pretrained` writes")
    where = str(path)
    file = read_json(path, _Document)
    model_bytes = bytes(file.model)
    kind = decode_json(model_bytes, _ModelKind, where=f"{where}: model").type
    if kind != "BPE":
        raise UnsupportedModel(
            f"{where}: tokenizer model {kind} cannot be stored in a GGUF file that this build reads; "
            "supported is BPE, byte-level or of SentencePiece"
        )
    model = decode_json(model_bytes, BpeModel, where=f"{where}: model")
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        raise UnsupportedModel(f"{where}: BPE with a subword prefix or word suffix has no place in a GGUF file")
    return TokenizerDocument(where=where, raw=read_json(path, Json), model=model, added=file.added_tokens or ())


def is_byte_level(document: TokenizerDocument) -> bool:
    """True if tokens spell bytes as printable characters; the alternative is SentencePiece's spelling."""
    pipeline = document.steps("pre_tokenizer") + document.steps("decoder")
    return any(step.get("type") == "ByteLevel" for step in pipeline)


class TokenList(msgspec.Struct, frozen=True):
    """Texts and types by id."""

    texts: tuple[str, ...]
    types: tuple[TokenType, ...]

    @property
    def metadata(self) -> dict[str, EncodedValue]:
        return {
            TokenizerKey.TOKENS: array(Kind.STRING, self.texts),
            TokenizerKey.TYPES: array(Kind.INT32, self.types),
        }


def token_list(document: TokenizerDocument, *, vocab_size: int) -> TokenList:
    """Tokens for all rows of the embedding; ids without a token get the name that llama.cpp's converter gives.

    Raises `ModelError` for ids beyond the embedding, and for two tokens with one id.
    """
    texts: dict[int, str] = {}
    ids = document.model.vocab | {token.content: token.id for token in document.added}
    for text, token_id in ids.items():
        if not 0 <= token_id < vocab_size:
            raise ModelError(f"{document.where}: token {text!r} has id {token_id}; the model has {vocab_size} rows")
        if token_id in texts:
            raise ModelError(f"{document.where}: tokens {texts[token_id]!r} and {text!r} share the id {token_id}")
        texts[token_id] = text
    types = {token_id: _ordinary_type(document, text) for token_id, text in texts.items()}
    types |= {token.id: _added_type(document, token) for token in document.added}
    pads = [token_id for token_id in range(vocab_size) if token_id not in texts]
    texts |= {token_id: f"[PAD{token_id}]" for token_id in pads}
    types |= dict.fromkeys(pads, TokenType.UNUSED)
    every_id = range(vocab_size)
    return TokenList(tuple(texts[token_id] for token_id in every_id), tuple(types[token_id] for token_id in every_id))


def _ordinary_type(document: TokenizerDocument, text: str) -> TokenType:
    if text == document.model.unk_token:
        return TokenType.UNKNOWN
    is_byte = document.model.byte_fallback and text in spelling.BYTE_BY_TOKEN
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def _added_type(document: TokenizerDocument, token: AddedToken) -> TokenType:
    """Turn markers are control tokens whatever the file calls them, as in llama.cpp's converter."""
    if token.content == document.model.unk_token:
        return TokenType.UNKNOWN
    is_control = token.special or spelling.looks_like_control(token.content)
    return TokenType.CONTROL if is_control else TokenType.USER_DEFINED
