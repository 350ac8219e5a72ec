"""Thousands of steps need no more memory than hundreds."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import CheckSkipped, expect
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSequence, KitSubject

_STEPS = 2_000
_WARM_AFTER = 400
_ALLOWED_BYTES = 4_000_000
"""2.5 kB a step: less than the logits of one small step, more than the noise of an allocator."""
_STATM = Path("/proc/self/statm")


def check_growth(bench: KitBench) -> None:
    if not _STATM.exists():
        raise CheckSkipped("the resident size of a process is read from /proc, which is not there")
    subject = bench.subject()
    sequences = [subject.open() for _ in range(3)]
    sizes = []
    for index in range(_STEPS):
        _step(subject, sequences, index)
        if index in (_WARM_AFTER, (_WARM_AFTER + _STEPS) // 2, _STEPS - 1):
            sizes.append(_resident_bytes())
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    # A leak grows in both halves; a buffer that was late to settle grows in one.
    expect(
        first + second <= _ALLOWED_BYTES or min(first, second) <= _ALLOWED_BYTES // 4,
        expected=f"at most {_ALLOWED_BYTES / 1e6:.0f} MB more after {_STEPS - _WARM_AFTER} steps",
        found=f"{first / 1e6:.1f} MB, then {second / 1e6:.1f} MB",
        contract=contract.PLAN,
    )


def _step(subject: KitSubject, sequences: list[KitSequence], index: int) -> None:
    """A decode step of three; now and then, one of them ends and another begins."""
    parts = [KitPart(sequence, [20 + index % 200]) for sequence in sequences]
    if index % 25 == 0:
        ending = index // 25 % 3
        subject.close(sequences[ending])
        sequences[ending] = subject.open()
        subject.run(KitPart(sequences[ending], random_tokens(6, seed=370)))
        parts[ending] = KitPart(sequences[ending], [21])
    subject.run(*parts)


def _resident_bytes() -> int:
    """The size after free memory went back to the system, where the C library can: a leak would fill that first."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


CHECKS = (
    Check(
        name="growth",
        claim=f"{_STEPS} steps leave the process as large as it was.",
        run=check_growth,
        layouts=(),
    ),
)
