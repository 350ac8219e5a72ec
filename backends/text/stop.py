"""Stop strings, found across the borders of tokens and chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from backends.errors import RequestError


class _State(msgspec.Struct):
    """A beginning of stop strings. `depth` is its length, `found` that of the longest stop string it ends with."""

    depth: int
    next: dict[str, _State] = {}
    fallback: _State | None = None
    """The longest proper ending of this one that is also a beginning; `None` for the empty one."""
    found: int = 0


class StopMatcher:
    """Looks for the stop strings of one sequence in linear time (Aho-Corasick, 1975).

    The text ends before the stop string that is complete first; of several complete at once, before the longest.
    The result does not depend on how the text is cut into chunks.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises `RequestError` for an empty stop string."""
        if "" in stops:
            raise RequestError("a stop string must not be empty", param="stop")
        self._root = _build(stops)
        self._state = self._root
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """(text that is safe to show, whether a stop string was found). What follows a stop string is dropped.

        Held back is only the longest ending that may still become a stop string.
        """
        if self._stopped:
            return "", True
        if not self._root.next:
            return text, False
        pending = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            self._state = _step(self._state, character)
            if self._state.found:
                self._stopped, self._held = True, ""
                return pending[: end - self._state.found], True
        shown = len(pending) - self._state.depth
        self._held = pending[shown:]
        return pending[:shown], False

    def flush(self) -> str:
        """Text that was held back, when no more text comes. Empty after a stop string."""
        held, self._held = self._held, ""
        self._state = self._root
        return held


def _build(stops: Sequence[str]) -> _State:
    root = _State(depth=0)
    for stop in stops:
        state = root
        for character in stop:
            state = state.next.setdefault(character, _State(depth=state.depth + 1))
        state.found = len(stop)
    _link(root)
    return root


def _link(root: _State) -> None:
    """Set `fallback` and inherit `found`, shorter beginnings first."""
    queue = deque([root])
    while queue:
        state = queue.popleft()
        for character, child in state.next.items():
            child.fallback = root if state.fallback is None else _step(state.fallback, character)
            child.found = max(child.found, child.fallback.found)
            queue.append(child)


def _step(state: _State, character: str) -> _State:
    while character not in state.next:
        if state.fallback is None:
            return state
        state = state.fallback
    return state.next[character]
