"""Tracks which adapter is in which slot of the runner. There may be more adapters than slots; those in use stay."""

from __future__ import annotations

from collections import Counter

import msgspec


class Placement(msgspec.Struct, frozen=True):
    """Load this adapter into this slot before the next step, replacing what was there."""

    adapter: str
    slot: int


class AdapterSlots:
    """Slots in use by running sequences are pinned; of the others, the least recently used is replaced first."""

    def __init__(self, num_slots: int) -> None:
        self._slots: dict[str, int] = {}
        """Least recently used first."""
        self._free = list(range(num_slots - 1, -1, -1))
        self._holders: Counter[str] = Counter()
        self._placements: list[Placement] = []
        self.num_hits = 0
        self.num_loads = 0

    def can_acquire(self, adapter: str | None) -> bool:
        """True if `acquire` would succeed now."""
        return adapter is None or adapter in self._slots or bool(self._free) or len(self._holders) < len(self._slots)

    def acquire(self, adapter: str | None) -> None:
        """Pin the adapter for one more running sequence. Raises `ValueError` when `can_acquire` is false."""
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
        """Unpin it for one sequence; the adapter stays in its slot until that slot is needed."""
        if adapter is None:
            return
        self._holders[adapter] -= 1
        if not self._holders[adapter]:
            del self._holders[adapter]

    def slot_of(self, adapter: str | None) -> int:
        """Slot number for `Step.lora`; -1 means no adapter. Raises `KeyError` for an adapter without a slot."""
        return -1 if adapter is None else self._slots[adapter]

    def take_placements(self) -> list[Placement]:
        """Placements decided since the last call, to be applied in this order before the next step."""
        placements, self._placements = self._placements, []
        return placements

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a slot is lost or assigned twice, or an acquired adapter has none."""
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
