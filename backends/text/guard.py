"""Marks what users typed, so that it can never become one of the model's special tokens.

A mark is one private-use character that neither the messages nor the template contain. It is put

    <m|mem>m     after each character of a special token's text
    <|em         after a last character with which the text could begin a special token (the template may finish it)
    m|>          before a first character with which the text could finish one

and taken out again by `StandIns.encode`, after the template's own special tokens have been recognised.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import msgspec

from backends.errors import RequestError
from backends.generation import Message

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


ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
"""Templates write roles into control tokens (`<|` + role + `|>`), so that a free role could forge one."""

_PRIVATE_USE = range(0xF0000, 0xFFFFE)


class Guarded(msgspec.Struct, frozen=True):
    """Messages ready for the template; `mark` is empty if nothing had to be marked."""

    messages: tuple[Message, ...]
    mark: str = ""


class Guard:
    """Knows the special tokens of one model. `template_source` keeps its characters from being the mark."""

    def __init__(self, specials: Collection[str], *, template_source: str = "") -> None:
        self._specials = compile_literals(specials)
        self._beginnings = frozenset(word[:end] for word in specials for end in range(1, len(word)))
        self._endings = frozenset(word[start:] for word in specials for start in range(1, len(word)))
        self._longest = max(map(len, specials), default=1)
        self._template_characters = frozenset(template_source)

    def protect(self, messages: Sequence[Message]) -> Guarded:
        """Raises `RequestError` for a role that is not in `ROLES`."""
        for message in messages:
            if message.role not in ROLES:
                raise RequestError(f"role {message.role!r} is not one of {', '.join(sorted(ROLES))}", param="messages")
        if not any(self._is_risky(text) for message in messages for text in (message.content, message.name) if text):
            return Guarded(tuple(messages))
        mark = self._choose_mark(messages)
        return Guarded(tuple(self._marked_message(message, mark) for message in messages), mark)

    def _is_risky(self, text: str) -> bool:
        return bool(self._begins_special(text) or self._ends_special(text) or self._specials.search(text))

    def _begins_special(self, text: str) -> bool:
        """Whether `text`, but for space at its end, ends with the beginning of a special token."""
        tail = text.rstrip()[-self._longest :]
        return any(tail[start:] in self._beginnings for start in range(len(tail)))

    def _ends_special(self, text: str) -> bool:
        head = text.lstrip()[: self._longest]
        return any(head[:end] in self._endings for end in range(1, len(head) + 1))

    def _choose_mark(self, messages: Sequence[Message]) -> str:
        used = self._template_characters.union(*(message.content + (message.name or "") for message in messages))
        mark = next((chr(point) for point in _PRIVATE_USE if chr(point) not in used), None)
        if mark is None:
            raise RequestError("the messages use every private-use character of Unicode", param="messages")
        return mark

    def _marked_message(self, message: Message, mark: str) -> Message:
        name = None if message.name is None else self._marked(message.name, mark)
        return msgspec.structs.replace(message, content=self._marked(message.content, mark), name=name)

    def _marked(self, text: str, mark: str) -> str:
        def interleaved(found: re.Match[str]) -> str:
            return "".join(character + mark for character in found[0])

        # Marks never become the outermost character next to space, so that templates can still trim.
        begins, ends = self._begins_special(text), self._ends_special(text)
        marked = self._specials.sub(interleaved, text)
        if begins:
            kept = marked.rstrip()
            marked = kept + mark + marked[len(kept) :]
        if ends:
            kept = marked.lstrip()
            marked = marked[: len(marked) - len(kept)] + mark + kept
        return marked
