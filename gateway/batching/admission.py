"""Order in which waiting sequences are admitted. `gateway.batching.fairness` has the fair one."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gateway.batching.sequence import Sequence


class AdmissionOrder(Protocol):
    """Queue of waiting sequences that decides which one is next."""

    def __len__(self) -> int: ...

    def push(self, sequence: Sequence) -> None:
        """Add a new sequence to the queue."""
        ...

    def push_back_in(self, sequence: Sequence) -> None:
        """Put a preempted sequence back in the queue; it does not lose its turn."""
        ...

    def head(self) -> Sequence | None:
        """Next sequence, left in the queue; None if none waits."""
        ...

    def head_rank(self) -> float:
        """Rank of the head, comparable with `rank`. Raises `IndexError` if none waits."""
        ...

    def pop(self) -> Sequence:
        """Remove and return the next sequence. Raises `IndexError` if none waits."""
        ...

    def remove(self, sequence_id: int) -> Sequence | None:
        """Remove and return a sequence wherever it is in the queue; None if it is not waiting."""
        ...

    def charge(self, sequence: Sequence, *, start: int, num_tokens: int) -> None:
        """Count `num_tokens` tokens from position `start` that a running sequence gets in this step."""
        ...

    def ended(self, sequence: Sequence) -> None:
        """Note that a running sequence has ended."""
        ...

    def rank(self, sequence: Sequence) -> float:
        """Rank among running prompts; the lowest gets tokens first."""
        ...

    def claim(self, *, places: int) -> Sequence | None:
        """Running sequence to preempt for the head, which could not be admitted; None lets the head wait."""
        ...

    def over_served(self) -> Sequence | None:
        """Running sequence to preempt when memory is short; None if none runs."""
        ...


class FirstComeFirstServed:
    """Admits in order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def push_back_in(self, sequence: Sequence) -> None:
        # The youngest is preempted first, and all running sequences came before all waiting ones, so it goes to the
        # front.
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
        """Do nothing: usage is not counted."""

    def ended(self, sequence: Sequence) -> None:
        del self._running[sequence.id]

    def rank(self, sequence: Sequence) -> float:
        return sequence.arrival

    def claim(self, *, places: int) -> Sequence | None:
        """Return None: an earlier sequence is never preempted for a later one."""
        del places
        return None

    def over_served(self) -> Sequence | None:
        return max(self._running.values(), key=lambda running: running.arrival, default=None)
