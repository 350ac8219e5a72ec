"""Cuts text into words as a GGUF file says, and spells their bytes as printable characters."""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

from backends.weights.gguf.cuttings import Cutting


def build_pre_tokenizer(cutting: Cutting) -> pre_tokenizers.PreTokenizer:
    """Cut, then spell bytes as printable characters."""
    cuts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in cutting.patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
