"""Runs the kit on a runner and tabulates the results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from backends.api import RunnerCapabilities
from backends.testing.kit import contract
from backends.testing.kit.bench import CreateRunner, KitBench
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
from backends.testing.kit.expect import CheckSkipped, ConformanceError, Tolerances
from backends.testing.kit.samples import Samples

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


Outcome = Literal["passed", "failed", "skipped"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a case. `reason`: why it was skipped, or what is wrong; empty if it passed."""

    name: str
    claim: str
    outcome: Outcome
    reason: str
    seconds: float


def run_case(case: Case, create_runner: CreateRunner, samples: Samples, *, tolerances: Tolerances) -> None:
    """Return if the claim holds. Raises `CheckSkipped` or `ConformanceError`, whatever the runner raised."""
    capabilities = _declared(create_runner)
    reason = case.why_skipped(capabilities)
    if reason:
        raise CheckSkipped(reason)
    layout = case.layout or capabilities.kv_layouts[0]
    try:
        with KitBench(create_runner, samples, layout=layout, tolerances=tolerances) as bench:
            case.check.run(bench)
    except (CheckSkipped, ConformanceError):
        raise
    except Exception as error:  # a third-party runner may raise anything
        found = f"{type(error).__name__}: {error}"
        expected = f"no error, for the check claims: {case.check.claim}"
        raise ConformanceError(expected=expected, found=found, contract=contract.TYPED) from error


def _declared(create_runner: CreateRunner) -> RunnerCapabilities:
    runner = create_runner(exact=False)
    capabilities = runner.capabilities()
    runner.close()
    return capabilities


def run_checks(
    create_runner: CreateRunner,
    directory: Path,
    *,
    tolerances: Tolerances | None = None,
    cases: Iterable[Case] = CASES,
) -> Iterator[Result]:
    """One result a case, as soon as it is known. `directory` takes the models, a few megabytes."""
    samples = Samples(directory)
    for case in cases:
        start = time.perf_counter()
        outcome, reason = _outcome(case, create_runner, samples, tolerances or Tolerances())
        seconds = time.perf_counter() - start
        yield Result(name=case.name, claim=case.check.claim, outcome=outcome, reason=reason, seconds=seconds)


def _outcome(case: Case, create_runner: CreateRunner, samples: Samples, tolerances: Tolerances) -> tuple[Outcome, str]:
    try:
        run_case(case, create_runner, samples, tolerances=tolerances)
    except CheckSkipped as skipped:
        return "skipped", str(skipped)
    except ConformanceError as error:
        return "failed", str(error)
    return "passed", ""
