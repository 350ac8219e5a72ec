"""Finding any of many literal strings in time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterable

_Trie = dict[str, "_Trie"]
_END = ""


def compile_literals(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern for the longest of `words` at a position; words that share a beginning share the work.

    A plain alternation tries every word at every position, which a crafted text makes slow. Without words, the
    pattern never matches. Words must be short: the pattern nests once a character.
    """
    root: _Trie = {}
    for word in words:
        node = root
        for character in word:
            node = node.setdefault(character, {})
        node[_END] = {}
    return re.compile(_pattern(root) if root else r"(?!)")


def _pattern(node: _Trie) -> str:
    branches = [re.escape(character) + _pattern(child) for character, child in node.items() if character != _END]
    if not branches:
        return ""
    group = branches[0] if len(branches) == 1 and _END not in node else f"(?:{'|'.join(branches)})"
    return f"{group}?" if _END in node else group
