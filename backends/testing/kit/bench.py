"""Supplies checks with fresh runners, models and tolerances."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Literal, Protocol

import msgspec

from backends.api import KVLimit, LoadableModel, Runner, RunnerCapabilities
from backends.testing.kit import contract
from backends.testing.kit.expect import Tolerances, expect_quiet
from backends.testing.kit.reference import Reference
from backends.testing.kit.samples import Samples
from backends.testing.kit.subject import KitSubject

KitLayout = Literal["slot", "paged"]

SEQUENCES = 6
CONTEXT = 96
"""Tokens of one sequence, or three blocks where blocks are larger."""
AMPLE_BYTES = 1 << 30


class CreateRunner(Protocol):
    """Makes the runner under test."""

    def __call__(self, *, exact: bool) -> Runner:
        """Create a runner; `exact` computes quantized weights with float32 activations."""
        ...


class KitBench:
    """Bench of one check in one KV layout. Use as a context manager: it closes the runners that it made."""

    def __init__(
        self, create_runner: CreateRunner, samples: Samples, *, layout: KitLayout, tolerances: Tolerances
    ) -> None:
        self.samples = samples
        self.layout: KitLayout = layout
        self.tolerances = tolerances
        self._create_runner = create_runner
        self._runners: list[Runner] = []

    def __enter__(self) -> KitBench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners:
            if error is None:
                expect_quiet(runner.close, when="close at the end", contract=contract.CLOSE)
            else:
                with suppress(Exception):  # what went wrong before is the news
                    runner.close()

    @property
    def capabilities(self) -> RunnerCapabilities:
        return self.runner().capabilities()

    def runner(self, *, exact: bool = False) -> Runner:
        runner = self._create_runner(exact=exact)
        self._runners.append(runner)
        return runner

    def subject(
        self,
        reference: Reference | None = None,
        *,
        model: LoadableModel | None = None,
        exact: bool = False,
        tolerance: float | None = None,
        num_sequences: int = SEQUENCES,
    ) -> KitSubject:
        """A new runner with the reference's model (the base) loaded, memory planned and warm.

        `model` is loaded instead, where it differs from what the reference computes.
        """
        reference = reference or self.samples.base
        runner = self.runner(exact=exact)
        info = runner.load(model or reference.model, lambda _: None)
        subject = KitSubject(runner, reference, info, tolerance=tolerance or self.tolerances.logits)
        self.plan(subject, num_sequences=num_sequences)
        return subject

    def plan(self, subject: KitSubject, *, num_sequences: int = SEQUENCES, context: int = CONTEXT) -> None:
        """Plan again, long enough for three blocks, and warm up."""
        layouts = subject.runner.capabilities().kv_layouts
        # An exact runner may declare less than the one that the case was chosen for.
        layout = self.layout if self.layout in layouts else layouts[0]
        limit = self.limit(num_sequences=num_sequences, context=context)
        subject.plan_memory(msgspec.structs.replace(limit, layout=layout))
        if 3 * subject.plan.block_tokens > context and subject.is_paged:
            longer = 3 * subject.plan.block_tokens
            subject.plan_memory(self.limit(num_sequences=num_sequences, context=longer))
        subject.runner.warmup()

    def limit(self, *, num_sequences: int = SEQUENCES, context: int = CONTEXT, max_bytes: int = AMPLE_BYTES) -> KVLimit:
        return KVLimit(max_bytes=max_bytes, max_sequences=num_sequences, max_context=context, layout=self.layout)
