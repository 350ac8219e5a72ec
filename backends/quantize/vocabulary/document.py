"""tokenizer.json, read into types: the parts that GGUF metadata has words for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from backends.errors import ModelError, UnsupportedModel
from backends.weights.files import decode_json, read_json

Json = dict[str, Any]  # steps of the pipeline have open keys

_FILE = "tokenizer.json"
_CHILDREN = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


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
        part = self.raw.get(component)
        return [] if part is None else _unfolded(part, _CHILDREN[component])

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


class _Kind(msgspec.Struct, frozen=True):
    type: str = "BPE"


class _File(msgspec.Struct, frozen=True):
    model: msgspec.Raw
    added_tokens: tuple[AddedToken, ...] | None = None


def read_document(folder: Path) -> TokenizerDocument:
    """Raises `ModelError` for a missing or damaged file and `UnsupportedModel` for another model than BPE."""
    path = folder / _FILE
    if not path.exists():
        raise ModelError(f"{path}: no such file; a GGUF file needs the tokenizer, which `save_pretrained` writes")
    where = str(path)
    file = read_json(path, _File)
    model_bytes = bytes(file.model)
    kind = decode_json(model_bytes, _Kind, where=f"{where}: model").type
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
    """Whether tokens spell bytes as printable characters; the alternative is SentencePiece's spelling."""
    steps = document.steps("pre_tokenizer") + document.steps("decoder")
    return any(step.get("type") == "ByteLevel" for step in steps)


def _unfolded(part: Json, children: str) -> list[Json]:
    if part.get("type") != "Sequence":
        return [part]
    return [step for child in part[children] for step in _unfolded(child, children)]
