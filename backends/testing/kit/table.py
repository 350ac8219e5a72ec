"""Every check, in the order in which a person would want to see them fail."""

from __future__ import annotations

from backends.testing.kit.check import Case, Check, cases_of
from backends.testing.kit.checks import (
    adapters,
    batches,
    families,
    formats,
    growth,
    life,
    load,
    logits,
    memory,
    plan,
    refusals,
    sampling,
    tickets,
    verify,
)

CHECKS: tuple[Check, ...] = (
    *load.CHECKS,
    *life.CHECKS,
    *plan.CHECKS,
    *logits.CHECKS,
    *batches.CHECKS,
    *memory.CHECKS,
    *verify.CHECKS,
    *tickets.CHECKS,
    *refusals.CHECKS,
    *sampling.CHECKS,
    *formats.CHECKS,
    *families.CHECKS,
    *adapters.CHECKS,
    *growth.CHECKS,
)

CASES: tuple[Case, ...] = cases_of(CHECKS)
"""Every check in each layout that it is about."""
