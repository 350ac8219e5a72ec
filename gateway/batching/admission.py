"""In which order waiting sequences are admitted. Fairness is in `gateway.batching.fairness`."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gateway.batching.sequence import Sequence


class AdmissionOrder(Protocol):
    """Who waits, and who is next."""

    def __len__(self) -> int: ...

    def push(self, sequence: Sequence) -> None:
        """A new sequence waits."""
        ...

    def push_back_in(self, sequence: Sequence) -> None:
        """A preempted sequence waits again; it does not lose its turn."""
        ...

    def head(self) -> Sequence | None:
        """The next one, left where it is; None if nobody waits."""
        ...

    def head_rank(self) -> float:
        """Of the head, to be compared with `rank`. Raises `IndexError` if nobody waits."""
        ...

    def pop(self) -> Sequence:
        """Take the next one out. Raises `IndexError` if nobody waits."""
        ...

    def remove(self, sequence_id: int) -> Sequence | None:
        """Take one out wherever it stands; None if it does not wait."""
        ...

    def charge(self, sequence: Sequence, *, start: int, num_tokens: int) -> None:
        """A running sequence gets so many tokens from position `start` in this step."""
        ...

    def ended(self, sequence: Sequence) -> None:
        """A running sequence runs no more."""
        ...

    def rank(self, sequence: Sequence) -> float:
        """Among running prompts, the lowest gets tokens first."""
        ...

    def claim(self, *, places: int) -> Sequence | None:
        """The running sequence that has to make room for the head, which found none; None lets the head wait."""
        ...

    def over_served(self) -> Sequence | None:
        """Which running sequence goes when memory is short; None if nobody runs."""
        ...


class FirstComeFirstServed:
    """By arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def push_back_in(self, sequence: Sequence) -> None:
        # The youngest is preempted first and everyone running came before everyone waiting, so the front is its place.
        self._waiting.appendleft(sequence)

    def head(self) -> Sequence | None:
        return self._waiting[0] if self._waiting else None

    def head_rank(self) -> float:
        return self._waiting[0].arrival

    def pop(self) -> Sequence:
        sequence = self._waiting.popleft()
        self._running[sequence.id] = sequence
        return sequence

    def remove(self, sequence_id: int) -> Sequence | None:
        for sequence in self._waiting:
            if sequence.id == sequence_id:
                self._waiting.remove(sequence)
                return sequence
        return None

    def charge(self, sequence: Sequence, *, start: int, num_tokens: int) -> None:
        """Nobody is counted."""

    def ended(self, sequence: Sequence) -> None:
        del self._running[sequence.id]

    def rank(self, sequence: Sequence) -> float:
        return sequence.arrival

    def claim(self, *, places: int) -> Sequence | None:
        """Who came first stays."""
        del places
        return None

    def over_served(self) -> Sequence | None:
        return max(self._running.values(), key=lambda running: running.arrival, default=None)
