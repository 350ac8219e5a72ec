"""Pre-tokenizers of byte-level BPE, by the name that GGUF files give (`tokenizer.ggml.pre`).

The expressions are those of the models' own tokenizer.json; names and groups follow llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from backends.errors import UnsupportedModel

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
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


class Cutting(msgspec.Struct, frozen=True, kw_only=True):
    """`patterns` cut one after the other, each the pieces that the one before left."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    """True if a word that is a token stays whole, whatever the merges are."""
    adds_bos: bool = False
    """True if prompts begin with BOS when the file does not say."""


_DEFAULT = Cutting(patterns=(r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
_GPT2_LIKE = Cutting(patterns=(GPT2,))
_DIGITS_APART = Cutting(patterns=(r"\p{N}", GPT2))
_LLAMA3_LIKE = Cutting(patterns=(_LLAMA3,))
_LLAMA3_ITSELF = Cutting(patterns=(_LLAMA3,), ignore_merges=True, adds_bos=True)
_QWEN2_LIKE = Cutting(patterns=(_QWEN2,))
_GPT4O_LIKE = Cutting(patterns=(_GPT4O,))

CUTTINGS: Mapping[str, Cutting] = MappingProxyType(
    {
        "default": _DEFAULT,
        **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "exaone4", "mellum", "gigachat", "trillion"), _GPT2_LIKE),
        **dict.fromkeys(
            ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS_APART
        ),
        **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), _LLAMA3_ITSELF),
        **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _LLAMA3_LIKE),
        **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2"), _QWEN2_LIKE),
        "qwen35": Cutting(patterns=(_QWEN35,)),
        "falcon": Cutting(patterns=(r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]")),
        "deepseek-coder": Cutting(patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
        "deepseek-v3": Cutting(patterns=(r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3_WORDS)),
        "tekken": Cutting(patterns=(_TEKKEN,), ignore_merges=True, adds_bos=True),
        **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O_LIKE),
    }
)
"""Name → cutting."""


def cutting_by_name(name: str, *, where: str) -> Cutting:
    """Pre-tokenizer of a name. Raises `UnsupportedModel` with the supported ones; a wrong one would spoil outputs."""
    if name not in CUTTINGS:
        raise UnsupportedModel(
            f"{where}: tokenizer.ggml.pre is {name!r}; supported are {', '.join(CUTTINGS)}; "
            "a Hugging Face folder of the same model brings its own tokenizer.json"
        )
    return CUTTINGS[name]
