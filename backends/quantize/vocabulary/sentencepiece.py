"""SentencePiece BPE (`tokenizer.ggml.model` = `llama`): merges become scores.

There, the adjacent pair whose union has the highest score is joined first, so the score of a piece is how early the
merges make it. Pairs are not stored: every split of a piece into two pieces counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from backends.errors import UnsupportedModel
from backends.quantize.vocabulary.body import Body
from backends.quantize.vocabulary.document import Json, TokenizerDocument
from backends.quantize.vocabulary.tokens import TokenList, TokenType
from backends.weights.gguf.writer import Kind, array, scalar

_NEVER_MERGED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE, TokenType.UNUSED)
_SCORE_OF_CONTROL = -1000.0  # llama.cpp's converter; no merge looks at it


def sentencepiece_metadata(document: TokenizerDocument, tokens: TokenList) -> Body:
    """Raises `UnsupportedModel` for a normalizer or pre-tokenizer without words in GGUF files."""
    if document.model.unk_token is None:
        raise UnsupportedModel(f"{document.where}: a SentencePiece vocabulary without an unknown token")
    if document.model.ignore_merges:
        raise UnsupportedModel(f"{document.where}: ignore_merges has no word in GGUF files of this kind")
    rank = _rank_of_pieces(document)
    scores = [_score(text, kind, rank) for text, kind in zip(tokens.texts, tokens.types, strict=True)]
    adds_space, space_faults = _leading_space(document)
    metadata = {
        "tokenizer.ggml.model": scalar(Kind.STRING, "llama"),
        "tokenizer.ggml.pre": scalar(Kind.STRING, "default"),
        **tokens.metadata,
        "tokenizer.ggml.scores": array(Kind.FLOAT32, scores),
        "tokenizer.ggml.unknown_token_id": scalar(Kind.UINT32, tokens.texts.index(document.model.unk_token)),
        "tokenizer.ggml.add_space_prefix": scalar(Kind.BOOL, adds_space),
    }
    return Body(metadata=metadata, faults=space_faults + _merge_faults(document, tokens, rank))


def _rank_of_pieces(document: TokenizerDocument) -> dict[str, int]:
    """Piece → the first merge that makes it, counted from 0; in order of that number."""
    rank: dict[str, int] = {}
    for index, (left, right) in enumerate(document.merges):
        rank.setdefault(left + right, index)
    return rank


def _score(text: str, kind: TokenType, rank: dict[str, int]) -> float:
    if kind in _NEVER_MERGED:
        return 0.0 if kind == TokenType.BYTE else _SCORE_OF_CONTROL
    return -float(rank.get(text, len(rank) + 1_000_000))


def _merge_faults(document: TokenizerDocument, tokens: TokenList, rank: dict[str, int]) -> tuple[str, ...]:
    """Whether scores give back the merges: the same pairs, and pieces one after the other."""
    merges = document.merges
    ordinary = {text for text, kind in zip(tokens.texts, tokens.types, strict=True) if kind == TokenType.NORMAL}
    mergeable = ordinary | {
        text for text, kind in zip(tokens.texts, tokens.types, strict=True) if kind == TokenType.USER_DEFINED
    }
    implied = {pair for piece in ordinary for pair in _splits(piece, mergeable)}
    wanted = {pair for pair in merges if pair[0] + pair[1] in ordinary}
    different = implied ^ wanted
    if different:
        example = " + ".join(min(different))
        return (f"{len(different)} merges of the tokenizer cannot be told from scores, such as {example}",)
    order = [rank[left + right] for left, right in merges]
    if any(later < earlier for earlier, later in pairwise(order)):
        return ("the order of the tokenizer's merges cannot be told from scores",)
    return ()


def _splits(piece: str, pieces: set[str]) -> Iterator[tuple[str, str]]:
    for cut in range(1, len(piece)):
        if piece[:cut] in pieces and piece[cut:] in pieces:
            yield piece[:cut], piece[cut:]


def _leading_space(document: TokenizerDocument) -> tuple[bool, tuple[str, ...]]:
    """(whether a text begins with a space of its own, faults), from normalizer and pre-tokenizer."""
    steps = [_spelled(step) for step in document.steps("normalizer") + document.steps("pre_tokenizer")]
    steps = [step for step in steps if step]
    match steps:
        case ["prepend", "replace"]:
            return True, ()
        case ["replace"] | ["metaspace never"]:
            return False, ()
        case ["metaspace always" | "metaspace first" as how]:
            return True, (f"{how}: GGUF files put a space before every text, also before one that follows a token",)
    raise UnsupportedModel(
        f"{document.where}: normalizer and pre_tokenizer treat spaces in a way that GGUF files have no word for: "
        f"{' + '.join(steps) or 'nothing'}"
    )


def _spelled(step: Json) -> str:
    """A word for a step; none for one that changes nothing because no space is left to cut at."""
    match step:
        case {"type": "Prepend", "prepend": "▁"}:
            return "prepend"
        case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
            return "replace"
        case {"type": "Metaspace", "replacement": "▁"} if not step.get("split", True):
            return f"metaspace {step.get('prepend_scheme', 'always')}"
        case {"type": "Split", "pattern": {"String": " "}}:
            return ""
    return str(step.get("type"))
