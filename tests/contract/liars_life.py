"""Liars about loading, order, errors, tickets and memory. Each is honest but for one point."""

from __future__ import annotations

from collections.abc import Callable
from mmap import mmap

import msgspec

from backends.api import (
    KVPlan,
    LoadableModel,
    ModelInfo,
    RunnerCapabilities,
    Step,
    StepResult,
    Ticket,
)
from backends.errors import Fatal
from backends.testing.kit.reference import Reference
from tests.contract.replay import CAPABILITIES, ReplayRunner, ReplayTicket
from tests.contract.variants import Blank


class Widens(ReplayRunner):
    """Decodes whatever it gets."""

    def check_formats(self, model: LoadableModel) -> None:
        """Everything goes."""


class LoadsWhatItRefused(ReplayRunner):
    """Refuses a format, and keeps the model that came before the look at it."""

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        try:
            return super().load(model, progress)
        finally:
            self.base = self.base or Reference(LoadableModel(spec=model.spec, tensors={}))


class IgnoresWindows(ReplayRunner):
    """Loads models with features that it does not have."""

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        plain = msgspec.structs.replace(model.spec, windows=())
        return super().load(LoadableModel(spec=plain, tensors=model.tensors), progress)


class FallingProgress(ReplayRunner):
    """Progress that goes back."""

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        info = super().load(model, progress)
        progress(0.5)
        return info


class Changes(ReplayRunner):
    """Declares less once a model is there."""

    def capabilities(self) -> RunnerCapabilities:
        return CAPABILITIES if self.plan is None else msgspec.structs.replace(CAPABILITIES, max_verify_rows=2)


class WorksAsleep(ReplayRunner):
    """Steps run while it is suspended."""

    def suspend(self) -> None:
        self.tickets.clear()

    def close(self) -> None:
        super().close()
        self.kv = None


class ClosesOnce(ReplayRunner):
    """The second close fails."""

    def close(self) -> None:
        if self.base is None and self.plan is None and getattr(self, "_was_loaded", False):
            raise Fatal("closed already")
        super().close()

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        info = super().load(model, progress)
        self._was_loaded = True
        return info


class RaisesValueError(ReplayRunner):
    """Finds the fault and names it in its own way."""

    def submit(self, step: Step) -> Ticket:
        try:
            return super().submit(step)
        except Fatal as error:
            raise ValueError(str(error)) from error


class WritesThenRefuses(ReplayRunner):
    """Looks at the logit rows when the KV is already written."""

    def check(self, step: Step, plan: KVPlan, *, vocab_size: int) -> None:
        no_rows = msgspec.structs.replace(step, logit_rows=step.logit_rows[:0])
        super().check(no_rows, plan, vocab_size=vocab_size)
        self.write(step, self.memory(), self.tokens_of(step))
        super().check(step, plan, vocab_size=vocab_size)


class TakesAnySlot(ReplayRunner):
    """Does not look at the slots."""

    def check(self, step: Step, plan: KVPlan, *, vocab_size: int) -> None:
        try:
            super().check(step, plan, vocab_size=vocab_size)
        except Fatal as error:
            if "distinct" not in str(error):
                raise


class CancelsTooMuch(ReplayRunner):
    """A cancelled step takes the KV of slot or block 0 to 5 with it."""

    def submit(self, step: Step) -> Ticket:
        ticket = super().submit(step)
        assert isinstance(ticket, ReplayTicket)
        kv = self.memory()

        class Destructive(ReplayTicket):
            def cancel(self) -> None:
                super().cancel()
                kv[:] = 0

        replaced = Destructive(ticket.result)
        self.tickets[-1] = replaced
        return replaced


class GivesCancelled(ReplayRunner):
    """Hands out what was cancelled."""

    def collect(self, ticket: Ticket) -> StepResult:
        assert isinstance(ticket, ReplayTicket)
        ticket.is_cancelled = False
        return super().collect(ticket)


class CollectsTwice(ReplayRunner):
    """A ticket is as good as its result."""

    def collect(self, ticket: Ticket) -> StepResult:
        return (
            ticket.result if isinstance(ticket, ReplayTicket) and not ticket.is_cancelled else super().collect(ticket)
        )


class OneTicket(ReplayRunner):
    """Declares a depth, and forgets the older ticket."""

    def submit(self, step: Step) -> Ticket:
        self.tickets.clear()
        return super().submit(step)


class Leaks(Blank):
    """Leaks 8 kB in every step, as pages of the system's, since free heap memory may be left from earlier tests."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[mmap] = []

    def submit(self, step: Step) -> Ticket:
        pages = mmap(-1, 8192)
        pages.write(bytes(range(256)) * 32)
        self._kept.append(pages)
        return super().submit(step)

    def close(self) -> None:
        super().close()
        for pages in self._kept:
            pages.close()
        self._kept.clear()


LIES: tuple[tuple[type[ReplayRunner], str], ...] = (
    (Widens, "format_refused"),
    (LoadsWhatItRefused, "format_refused"),
    (Leaks, "growth"),
    (RaisesValueError, "broken_steps-slot"),
    (WritesThenRefuses, "broken_steps-slot"),
    (WritesThenRefuses, "broken_steps-paged"),
    (TakesAnySlot, "broken_steps-slot"),
    (CancelsTooMuch, "cancel-slot"),
    (GivesCancelled, "cancel-slot"),
    (CollectsTwice, "collect_once-slot"),
    (CollectsTwice, "collect_order-slot"),
    (OneTicket, "outstanding-slot"),
    (WorksAsleep, "order-slot"),
    (ClosesOnce, "close-slot"),
    (Changes, "capabilities"),
    (IgnoresWindows, "family_gemma2-slot"),
    (FallingProgress, "load"),
)
"""The liar, and the check that is about its lie."""
