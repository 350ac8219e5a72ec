"""The two kinds of tokenizer models that GGUF files hold: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`)."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from backends.errors import UnsupportedModel
from backends.quantize.vocabulary.document import TokenizerDocument, TokenList, is_byte_level
from backends.text import spelling
from backends.text.gguf_tokenizer import NEVER_MERGED, splits
from backends.text.gguf_vocabulary import TokenizerKey, TokenType
from backends.text.pretokenizers import pre_tokenizer_name
from backends.text.tokenizer_files import Json
from backends.weights.gguf.writer import EncodedValue, Kind, array, scalar

_UNSCORED = (*NEVER_MERGED, TokenType.UNUSED)
_SCORE_OF_CONTROL = -1000.0  # llama.cpp's converter; no merge looks at it


class VocabularyMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata pairs, and sentences on what they cannot express (`faults`) or are worth knowing (`notes`)."""

    metadata: dict[str, EncodedValue]
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def tokenizer_metadata(document: TokenizerDocument, tokens: TokenList) -> VocabularyMetadata:
    """Tokens and merges. Raises `UnsupportedModel` for a pipeline without words in GGUF files."""
    build = _byte_level if is_byte_level(document) else _sentencepiece
    return build(document, tokens)


def _byte_level(document: TokenizerDocument, tokens: TokenList) -> VocabularyMetadata:
    kinds = [str(step.get("type")) for step in document.steps("normalizer")]
    unknown = [kind for kind in kinds if kind != "NFC"]
    pre_tokenizer = pre_tokenizer_name(
        document.steps("pre_tokenizer"), ignore_merges=document.model.ignore_merges, where=document.where
    )
    metadata = {
        TokenizerKey.MODEL: scalar(Kind.STRING, "gpt2"),
        TokenizerKey.PRE: scalar(Kind.STRING, pre_tokenizer),
        **tokens.metadata,
        TokenizerKey.MERGES: array(Kind.STRING, [_joined(pair, document) for pair in document.merges]),
    }
    return VocabularyMetadata(
        metadata=metadata,
        notes=("GGUF metadata has no word for the tokenizer's NFC normalization",) if "NFC" in kinds else (),
        faults=(f"GGUF metadata has no word for the normalizer {' + '.join(unknown)}",) if unknown else (),
    )


def _joined(pair: tuple[str, str], document: TokenizerDocument) -> str:
    if " " in pair[0] or " " in pair[1]:
        raise UnsupportedModel(f"{document.where}: merge {pair} holds a space, which separates tokens in GGUF files")
    return " ".join(pair)


def _sentencepiece(document: TokenizerDocument, tokens: TokenList) -> VocabularyMetadata:
    """Merges become scores.

    The adjacent pair whose union has the highest score is joined first, so the score of a piece is how early the merges
    make it. Pairs are not stored: every split of a piece into two pieces counts.
    """
    if document.model.unk_token is None:
        raise UnsupportedModel(f"{document.where}: a SentencePiece vocabulary without an unknown token")
    if document.model.ignore_merges:
        raise UnsupportedModel(f"{document.where}: ignore_merges has no word in GGUF files of this kind")
    rank = _rank_of_pieces(document)
    scores = [_score(text, kind, rank) for text, kind in zip(tokens.texts, tokens.types, strict=True)]
    adds_space, space_faults = _leading_space(document)
    metadata = {
        TokenizerKey.MODEL: scalar(Kind.STRING, "llama"),
        TokenizerKey.PRE: scalar(Kind.STRING, "default"),
        **tokens.metadata,
        TokenizerKey.SCORES: array(Kind.FLOAT32, scores),
        TokenizerKey.UNKNOWN: scalar(Kind.UINT32, tokens.texts.index(document.model.unk_token)),
        TokenizerKey.ADD_SPACE_PREFIX: scalar(Kind.BOOL, adds_space),
    }
    return VocabularyMetadata(metadata=metadata, faults=space_faults + _merge_faults(document, tokens, rank))


def _rank_of_pieces(document: TokenizerDocument) -> dict[str, int]:
    """Piece → the first merge that makes it, counted from 0; in order of that number."""
    rank: dict[str, int] = {}
    for index, (left, right) in enumerate(document.merges):
        rank.setdefault(left + right, index)
    return rank


def _score(text: str, kind: TokenType, rank: dict[str, int]) -> float:
    if kind in _UNSCORED:
        return 0.0 if kind == TokenType.BYTE else _SCORE_OF_CONTROL
    return -float(rank.get(text, len(rank) + 1_000_000))


def _merge_faults(document: TokenizerDocument, tokens: TokenList, rank: dict[str, int]) -> tuple[str, ...]:
    """True if scores give back the merges: the same pairs, and pieces one after the other."""
    merges = document.merges
    ordinary = {text for text, kind in zip(tokens.texts, tokens.types, strict=True) if kind == TokenType.NORMAL}
    mergeable = ordinary | {
        text for text, kind in zip(tokens.texts, tokens.types, strict=True) if kind == TokenType.USER_DEFINED
    }
    implied = {pair for piece in ordinary for pair in splits(piece, mergeable)}
    wanted = {pair for pair in merges if pair[0] + pair[1] in ordinary}
    different = implied ^ wanted
    if different:
        example = " + ".join(min(different))
        return (f"{len(different)} merges of the tokenizer cannot be told from scores, such as {example}",)
    order = [rank[left + right] for left, right in merges]
    if any(later < earlier for earlier, later in pairwise(order)):
        return ("the order of the tokenizer's merges cannot be told from scores",)
    return ()


def _leading_space(document: TokenizerDocument) -> tuple[bool, tuple[str, ...]]:
    """(whether a text begins with a space of its own, faults), from normalizer and pre-tokenizer."""
    words = [_word(step) for step in document.steps("normalizer") + document.steps("pre_tokenizer")]
    words = [word for word in words if word]
    match words:
        case ["prepend", "replace"]:
            return True, ()
        case ["replace"] | ["metaspace never"]:
            return False, ()
        case ["metaspace always" | "metaspace first" as how]:
            return True, (f"{how}: GGUF files put a space before every text, also before one that follows a token",)
    raise UnsupportedModel(
        f"{document.where}: normalizer and pre_tokenizer treat spaces in a way that GGUF files have no word for: "
        f"{' + '.join(words) or 'nothing'}"
    )


def _word(step: Json) -> str:
    """A word for a step; none for one that changes nothing because no space is left to cut at."""
    match step:
        case {"type": "Prepend", "prepend": spelling.SPACE_MARK}:
            return "prepend"
        case {"type": "Replace", "pattern": {"String": " "}, "content": spelling.SPACE_MARK}:
            return "replace"
        case {"type": "Metaspace", "replacement": spelling.SPACE_MARK} if not step.get("split", True):
            return f"metaspace {step.get('prepend_scheme', 'always')}"
        case {"type": "Split", "pattern": {"String": " "}}:
            return ""
    return str(step.get("type"))
