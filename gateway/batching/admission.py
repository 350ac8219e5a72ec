"""In which order waiting sequences are admitted. Small and replaceable: fairness is another one of these."""

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

    def pop(self) -> Sequence:
        """Take the next one out. Raises `IndexError` if nobody waits."""
        ...

    def remove(self, sequence_id: int) -> Sequence | None:
        """Take one out wherever it stands; None if it does not wait."""
        ...


class FirstComeFirstServed:
    """By arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def push_back_in(self, sequence: Sequence) -> None:
        # The youngest is preempted first and everyone running came before everyone waiting, so the front is its place.
        self._waiting.appendleft(sequence)

    def head(self) -> Sequence | None:
        return self._waiting[0] if self._waiting else None

    def pop(self) -> Sequence:
        return self._waiting.popleft()

    def remove(self, sequence_id: int) -> Sequence | None:
        for sequence in self._waiting:
            if sequence.id == sequence_id:
                self._waiting.remove(sequence)
                return sequence
        return None
