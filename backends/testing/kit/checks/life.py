"""Life of a runner: order of calls, warm-up, suspend, close."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from backends.api import Runner, Step
from backends.errors import Fatal
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import expect, expect_error, expect_quiet
from backends.testing.kit.reference import Reference
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSubject

_DIFFERENT = 1e-2
"""Relative error above which logits do not come from the same KV."""


def check_order(bench: KitBench) -> None:
    step = _first_step(bench)
    runner = bench.runner()
    _all_fatal(_calls(runner, step, bench) | {"copy_blocks": lambda: runner.copy_blocks([(0, 0)])}, when="before load")
    runner.load(bench.samples.base.model, lambda _: None)
    _all_fatal(_stepping(runner, step), when="before plan_memory")
    runner.plan_memory(bench.limit())
    runner.warmup()
    runner.collect(runner.submit(step))
    runner.suspend()
    _all_fatal({"submit": lambda: runner.submit(step)}, when="while suspended")
    runner.resume()
    runner.collect(runner.submit(step))
    runner.close()
    _all_fatal(_calls(runner, step, bench), when="after close")


def _calls(runner: Runner, step: Step, bench: KitBench) -> dict[str, Callable[[], object]]:
    return _stepping(runner, step) | {"plan_memory": lambda: runner.plan_memory(bench.limit())}


def _stepping(runner: Runner, step: Step) -> dict[str, Callable[[], object]]:
    return {"warmup": runner.warmup, "submit": lambda: runner.submit(step), "resume": runner.resume}


def _all_fatal(calls: dict[str, Callable[[], object]], *, when: str) -> None:
    for name, call in calls.items():
        expect_error(Fatal, call, when=f"{name} {when}", contract=contract.ORDER)


def _first_step(bench: KitBench) -> Step:
    subject = bench.subject()
    subject.plan_memory(bench.limit())  # the same that the check itself plans
    return subject.step(KitPart(subject.open(), random_tokens(4, seed=3)))


def check_close(bench: KitBench) -> None:
    unused = bench.runner()
    expect_quiet(unused.close, when="close before load", contract=contract.CLOSE)
    subject = bench.subject()
    subject.run(KitPart(subject.open(), random_tokens(5, seed=4)))
    for _ in range(2):
        expect_quiet(subject.runner.close, when="close after a step, or again", contract=contract.CLOSE)
    subject.runner.load(bench.samples.base.model, lambda _: None)
    bench.plan(subject)
    subject.confirm(
        KitPart(subject.open(), random_tokens(5, seed=4)),
        what="a prefill after close and load",
        sentence=contract.CLOSE,
    )


def check_warmup(bench: KitBench) -> None:
    """Checks every slot or block, since the warm-up may have written to any."""
    subject = bench.subject()
    for index in range(min(6, subject.plan.num_blocks)):
        sequence = subject.open()
        for tokens in ([50 + index], [60 + index], random_tokens(3, seed=12 + index)):
            what = "the first steps after the warm-up"
            subject.confirm(KitPart(sequence, tokens), what=what, sentence=contract.WARMUP)


def check_suspend(bench: KitBench) -> None:
    subject = bench.subject()
    sequence = subject.open()
    tokens = random_tokens(24, seed=6)
    subject.confirm(KitPart(sequence, tokens), what="a prefill")
    subject.runner.suspend()
    subject.runner.resume()
    _expect_lost(subject, KitPart(sequence, [tokens[0]]))
    subject.forget()
    subject.confirm(
        KitPart(subject.open(), tokens), what="a prefill after suspend and resume", sentence=contract.SUSPEND
    )


def _expect_lost(subject: KitSubject, part: KitPart) -> None:
    """Continue a sequence whose KV was lost: the logits must differ from those with its KV."""
    found = subject.run(part)
    reference: Reference = subject.reference
    remembered = reference.rows(part.sequence.tokens, 1)
    with np.errstate(all="ignore"):  # lost KV may be anything
        error = np.linalg.norm(found - remembered) / np.linalg.norm(remembered)
    expect(
        not error < _DIFFERENT,  # NaN is as good as far away
        expected="a sequence continued after suspend and resume to have lost its KV",
        found="the logits that it would have had with its old KV",
        contract=contract.RESUME,
    )


CHECKS = (
    Check(name="order", claim="Calls out of order raise Fatal, and those in order still work.", run=check_order),
    Check(name="close", claim="Close may be called at any time and twice; load may follow.", run=check_close),
    Check(name="warmup", claim="The warm-up leaves nothing behind that is read.", run=check_warmup),
    Check(name="suspend", claim="Suspend and resume lose the KV and keep the weights.", run=check_suspend),
)
