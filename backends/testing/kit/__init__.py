"""The conformance kit: checks a `Runner` against the contract of `backends.api`, on tiny models and a NumPy oracle.

`hostelry runner check NAME` runs it over an installed runner; `backends.testing.kit.suite` makes it a pytest suite;
`run_checks` is underneath both. It needs numpy, msgspec and tokenizers, downloads nothing and takes under a minute.
"""

from __future__ import annotations

from backends.testing.kit.bench import CreateRunner
from backends.testing.kit.check import Case, Check
from backends.testing.kit.expect import CheckSkipped, ConformanceError, Tolerances
from backends.testing.kit.run import CASES, CHECKS, Outcome, Result, run_case, run_checks
from backends.testing.kit.samples import Samples

__all__ = [
    "CASES",
    "CHECKS",
    "Case",
    "Check",
    "CheckSkipped",
    "ConformanceError",
    "CreateRunner",
    "Outcome",
    "Result",
    "Samples",
    "Tolerances",
    "run_case",
    "run_checks",
]
