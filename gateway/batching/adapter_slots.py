"""Which adapters lie in the runner's slots. More may be known than there are slots; those of running sequences stay."""

from __future__ import annotations

from collections import Counter

import msgspec


class Placement(msgspec.Struct, frozen=True):
    """Before the next step: this adapter comes into this slot, whatever was there."""

    adapter: str
    slot: int


class AdapterSlots:
    """Held by running sequences; of the others, the least recently used one goes first."""

    def __init__(self, num_slots: int) -> None:
        self._slots: dict[str, int] = {}
        """The least recently taken first."""
        self._free = list(range(num_slots - 1, -1, -1))
        self._holders: Counter[str] = Counter()
        self._placements: list[Placement] = []
        self.num_hits = 0
        self.num_loads = 0

    def can_acquire(self, adapter: str | None) -> bool:
        """Whether `acquire` would succeed now."""
        return adapter is None or adapter in self._slots or bool(self._free) or len(self._holders) < len(self._slots)

    def acquire(self, adapter: str | None) -> None:
        """A sequence begins to run with it. Raises `ValueError` when `can_acquire` says no."""
        if adapter is None:
            return
        if not self.can_acquire(adapter):
            raise ValueError(f"no slot for adapter {adapter}: sequences run with {sorted(self._holders)}")
        if adapter in self._slots:
            self.num_hits += 1
            self._slots[adapter] = self._slots.pop(adapter)
        else:
            self._place(adapter)
        self._holders[adapter] += 1

    def release(self, adapter: str | None) -> None:
        """A sequence runs with it no more; it stays where it is until its slot is needed."""
        if adapter is None:
            return
        self._holders[adapter] -= 1
        if not self._holders[adapter]:
            del self._holders[adapter]

    def slot_of(self, adapter: str | None) -> int:
        """For `Step.lora`; -1 is none. Raises `KeyError` for one that nobody holds."""
        return -1 if adapter is None else self._slots[adapter]

    def take_placements(self) -> list[Placement]:
        """What was decided since the last call, to be done in this order before the next step."""
        placements, self._placements = self._placements, []
        return placements

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a slot is lost or given out twice, or a held adapter has none."""
        slots = sorted([*self._free, *self._slots.values()])
        if slots != list(range(len(slots))) or not set(self._holders) <= set(self._slots):
            raise RuntimeError(f"adapter slots lost or doubled: {self._slots}, free {self._free}, {self._holders}")

    def _place(self, adapter: str) -> None:
        self.num_loads += 1
        slot = self._free.pop() if self._free else self._evict()
        self._slots[adapter] = slot
        self._placements.append(Placement(adapter, slot))

    def _evict(self) -> int:
        idle = next(each for each in self._slots if each not in self._holders)
        return self._slots.pop(idle)
