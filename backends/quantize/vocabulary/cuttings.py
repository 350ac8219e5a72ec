"""From the steps of a tokenizer.json to the name that GGUF files give to a cutting of text into words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.errors import UnsupportedModel
from backends.quantize.vocabulary.document import Json, TokenizerDocument
from backends.weights.gguf.pretokenizers import CUTTINGS, GPT2

_NAMES = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-v3")
"""Of those that mean the same, one name each."""

NAMES: Mapping[tuple[tuple[str, ...], bool], str] = MappingProxyType(
    {(CUTTINGS[name].patterns, CUTTINGS[name].ignore_merges): name for name in _NAMES}
)
"""(expressions, whether a word that is a token is that token whatever the merges say) → `tokenizer.ggml.pre`."""


def cutting_name(document: TokenizerDocument) -> str:
    """Raises `UnsupportedModel` for a cutting without a name; a wrong one would spoil answers unseen."""
    patterns = tuple(pattern for step in document.steps("pre_tokenizer") for pattern in _patterns(step, document))
    name = NAMES.get((patterns, document.model.ignore_merges))
    if name is None:
        raise UnsupportedModel(
            f"{document.where}: pre_tokenizer cuts words in a way that has no name among {', '.join(NAMES.values())}"
            "; serve the folder as it is, or take a GGUF file made for this model"
        )
    return name


def _patterns(step: Json, document: TokenizerDocument) -> tuple[str, ...]:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": True}:
            raise UnsupportedModel(f"{document.where}: a space before every text has no word in GGUF files")
        case {"type": "ByteLevel", "use_regex": False}:
            return ()
        case {"type": "ByteLevel"}:
            return (GPT2,)
        case {"type": "Digits", "individual_digits": True}:
            return (r"\p{N}",)
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return (pattern,)
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Removed", "invert": True}:
            return (pattern,)
    return (str(step.get("type")),)  # unknown: no key of `NAMES` has it
