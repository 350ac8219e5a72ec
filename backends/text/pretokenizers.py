"""Pre-tokenizer patterns of byte-level BPE, by the names that GGUF files give (`tokenizer.ggml.pre`).

The expressions are those of the models' own tokenizer.json; names and groups follow llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from backends.errors import UnsupportedModel
from backends.text.gguf_vocabulary import TokenizerKey
from backends.text.tokenizer_files import Json

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


class NamedPreTokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """`patterns` split text one after the other, each the pieces that the one before left."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    """A word that is a token is that token, whatever the merges say."""
    adds_bos: bool = False
    """True if prompts begin with BOS when the file does not say."""


_DEFAULT = NamedPreTokenizer(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
_GPT2_LIKE = NamedPreTokenizer(patterns=(_GPT2,))
_DIGITS_APART = NamedPreTokenizer(patterns=(r"\p{N}", _GPT2))
_LLAMA3_LIKE = NamedPreTokenizer(patterns=(_LLAMA3,))
_LLAMA3_ITSELF = NamedPreTokenizer(patterns=(_LLAMA3,), ignore_merges=True, adds_bos=True)
_QWEN2_LIKE = NamedPreTokenizer(patterns=(_QWEN2,))
_GPT4O_LIKE = NamedPreTokenizer(patterns=(_GPT4O,))

PRE_TOKENIZERS: Mapping[str, NamedPreTokenizer] = MappingProxyType(
    {
        "default": _DEFAULT,
        **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "exaone4", "mellum", "gigachat", "trillion"), _GPT2_LIKE),
        **dict.fromkeys(
            ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS_APART
        ),
        **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), _LLAMA3_ITSELF),
        **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _LLAMA3_LIKE),
        **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2"), _QWEN2_LIKE),
        "qwen35": NamedPreTokenizer(patterns=(_QWEN35,)),
        "falcon": NamedPreTokenizer(patterns=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
        "deepseek-coder": NamedPreTokenizer(
            patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")
        ),
        "deepseek-v3": NamedPreTokenizer(patterns=(r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3_WORDS)),
        "tekken": NamedPreTokenizer(patterns=(_TEKKEN,), ignore_merges=True, adds_bos=True),
        **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O_LIKE),
    }
)

_WRITTEN_NAMES = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-v3")
"""One name for each set of names that mean the same."""

NAMES: Mapping[tuple[tuple[str, ...], bool], str] = MappingProxyType(
    {(PRE_TOKENIZERS[name].patterns, PRE_TOKENIZERS[name].ignore_merges): name for name in _WRITTEN_NAMES}
)
"""(patterns, `ignore_merges`) → `tokenizer.ggml.pre`."""


def pre_tokenizer_by_name(name: str, *, where: str) -> NamedPreTokenizer:
    """Raises `UnsupportedModel` naming the supported pre-tokenizers; a wrong one would spoil answers unnoticed."""
    if name not in PRE_TOKENIZERS:
        raise UnsupportedModel(
            f"{where}: {TokenizerKey.PRE} is {name!r}; supported are {', '.join(PRE_TOKENIZERS)}; "
            "a Hugging Face folder of the same model brings its own tokenizer.json"
        )
    return PRE_TOKENIZERS[name]


def pre_tokenizer_name(steps: Sequence[Json], *, ignore_merges: bool, where: str) -> str:
    """The name of the pre-tokenizer that a tokenizer.json spells as `steps`.

    Raises `UnsupportedModel` for one without a name; a wrong one would spoil answers unnoticed.
    """
    patterns = tuple(pattern for step in steps for pattern in _patterns(step, where))
    name = NAMES.get((patterns, ignore_merges))
    if name is None:
        raise UnsupportedModel(
            f"{where}: pre_tokenizer cuts words in a way that has no name among {', '.join(NAMES.values())}"
            "; serve the folder as it is, or take a GGUF file made for this model"
        )
    return name


def _patterns(step: Json, where: str) -> tuple[str, ...]:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": True}:
            raise UnsupportedModel(f"{where}: a space before every text has no word in GGUF files")
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
    return (str(step.get("type")),)  # unknown: no key of `NAMES` has it
