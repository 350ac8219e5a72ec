"""Patterns for many literal strings."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from backends.text.special_tokens import compile_literals


@given(words=st.sets(st.text("ab|<(", min_size=1, max_size=5), max_size=6), text=st.text("ab|<(", max_size=30))
def test_as_a_plain_alternation(words: set[str], text: str) -> None:
    """The pattern finds what an alternation of all words, longest first, would find."""
    plain = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) or "(?!)"

    assert compile_literals(words).findall(text) == re.findall(plain, text)


def test_nested_words() -> None:
    """Every beginning of a long word may itself be a word."""
    words = ["a" * length for length in range(1, 201)]

    assert compile_literals(words).findall("a" * 201) == ["a" * 200, "a"]
