"""How byte-level BPE cuts text into words: from the steps of a tokenizer.json to llama.cpp's name for them.

The expressions are those of the models' own tokenizer.json files; names follow llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.errors import UnsupportedModel
from backends.quantize.vocabulary.document import Json, TokenizerDocument

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
_QWEN35 = (
    rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_TAIL}"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIXES}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIXES}?"
    rf"|\p{{N}}{{1,3}}|{_CASED_TAIL}"
)
_DEEPSEEK3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CUTTINGS: Mapping[tuple[tuple[str, ...], bool], str] = MappingProxyType(
    {
        ((_GPT2,), False): "gpt-2",
        ((r"\p{N}", _GPT2), False): "smollm",
        ((_LLAMA3,), True): "llama-bpe",
        ((_LLAMA3,), False): "dbrx",
        ((_QWEN2,), False): "qwen2",
        ((_QWEN35,), False): "qwen35",
        ((_TEKKEN,), True): "tekken",
        ((_GPT4O,), False): "gpt-4o",
        ((r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3_WORDS), False): "deepseek-v3",
    }
)
"""(expressions, whether a word that is a token is that token whatever the merges say) → `tokenizer.ggml.pre`."""


def cutting_name(document: TokenizerDocument) -> str:
    """Raises `UnsupportedModel` for a cutting without a name; a wrong one would spoil answers unseen."""
    patterns = tuple(pattern for step in document.steps("pre_tokenizer") for pattern in _patterns(step, document))
    name = CUTTINGS.get((patterns, document.model.ignore_merges))
    if name is None:
        raise UnsupportedModel(
            f"{document.where}: pre_tokenizer cuts words in a way that has no name among {', '.join(CUTTINGS.values())}"
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
            return (_GPT2,)
        case {"type": "Digits", "individual_digits": True}:
            return (r"\p{N}",)
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return (pattern,)
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Removed", "invert": True}:
            return (pattern,)
    return (str(step.get("type")),)  # unknown: no key of `CUTTINGS` has it
