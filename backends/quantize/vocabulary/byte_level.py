"""Byte-level BPE (`tokenizer.ggml.model` = `gpt2`)."""

from __future__ import annotations

from backends.errors import UnsupportedModel
from backends.quantize.vocabulary.body import Body
from backends.quantize.vocabulary.cuttings import cutting_name
from backends.quantize.vocabulary.document import TokenizerDocument
from backends.quantize.vocabulary.tokens import TokenList
from backends.weights.gguf.writer import Kind, array, scalar


def byte_level_metadata(document: TokenizerDocument, tokens: TokenList) -> Body:
    """Raises `UnsupportedModel` for a cutting without a name."""
    kinds = [str(step.get("type")) for step in document.steps("normalizer")]
    unknown = [kind for kind in kinds if kind != "NFC"]
    metadata = {
        "tokenizer.ggml.model": scalar(Kind.STRING, "gpt2"),
        "tokenizer.ggml.pre": scalar(Kind.STRING, cutting_name(document)),
        **tokens.metadata,
        "tokenizer.ggml.merges": array(Kind.STRING, [_joined(pair, document) for pair in document.merges]),
    }
    return Body(
        metadata=metadata,
        notes=("GGUF metadata has no word for the tokenizer's NFC normalization",) if "NFC" in kinds else (),
        faults=(f"GGUF metadata has no word for the normalizer {' + '.join(unknown)}",) if unknown else (),
    )


def _joined(pair: tuple[str, str], document: TokenizerDocument) -> str:
    if " " in pair[0] or " " in pair[1]:
        raise UnsupportedModel(f"{document.where}: merge {pair} holds a space, which separates tokens in GGUF files")
    return " ".join(pair)
