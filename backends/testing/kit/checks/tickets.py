"""Tickets: collected once and in order, or cancelled."""

from __future__ import annotations

from typing import cast

from backends.api import Ticket
from backends.errors import Fatal
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import expect_error, expect_rows
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSubject


def check_collect_once(bench: KitBench) -> None:
    subject = bench.subject()
    ticket = subject.submit(KitPart(subject.open(), random_tokens(6, seed=220)))
    subject.collect(ticket, num_rows=1)
    _refused(subject, ticket, when="a ticket that was collected")
    _refused(subject, cast(Ticket, object()), when="a ticket of somebody else")
    subject.confirm(KitPart(subject.open(), random_tokens(6, seed=221)), what="a step after refused tickets")


def _refused(subject: KitSubject, ticket: Ticket, *, when: str) -> None:
    expect_error(Fatal, lambda: subject.runner.collect(ticket), when=when, contract=contract.COLLECT)


def check_cancel(bench: KitBench) -> None:
    subject = bench.subject()
    sequence, neighbour = subject.open(), subject.open()
    subject.run(KitPart(sequence, random_tokens(8, seed=222)))
    subject.run(KitPart(neighbour, random_tokens(15, seed=223)))
    for index in range(4):
        part = KitPart(sequence, random_tokens(1 + index, seed=224 + index))
        ticket = subject.runner.submit(subject.step(part))
        ticket.cancel()
        ticket.cancel()
        _refused(subject, ticket, when="a ticket that was cancelled")
        subject.confirm(part, what="a step that is run again after it was cancelled", sentence=contract.CANCEL)
        subject.confirm(
            KitPart(neighbour, [83]), what="a neighbour of a cancelled step", sentence=contract.NOWHERE_ELSE
        )


def check_collect_order(bench: KitBench) -> None:
    subject = bench.subject()
    sequences = [subject.open() for _ in range(2)]
    parts = [KitPart(sequence, random_tokens(7, seed=230 + index)) for index, sequence in enumerate(sequences)]
    first, second = (subject.submit(part) for part in parts)
    for ticket, part in ((first, parts[0]), (second, parts[1])):
        logits = subject.collect(ticket, num_rows=1)
        subject.compare(logits, part, what="one of two outstanding steps", sentence=contract.ASYNC_DEPTH)
    first, second = (subject.submit(KitPart(sequence, [84])) for sequence in sequences)
    _refused(subject, second, when="the second ticket before the first")


def check_outstanding_chain(bench: KitBench) -> None:
    """Submits as many tickets as declared, each continuing the sequence of the one before."""
    subject = bench.subject()
    sequence = subject.open()
    depth = min(subject.runner.capabilities().async_depth, 8)
    pieces = [random_tokens(3 + index, seed=240 + index) for index in range(depth)]
    tickets = [subject.submit(KitPart(sequence, piece)) for piece in pieces]
    for index, ticket in enumerate(tickets):
        seen = [token for piece in pieces[: index + 1] for token in piece]
        logits = subject.collect(ticket, num_rows=1)
        expected = sequence.reference.rows(seen, 1)
        what = f"ticket {index} of {depth} outstanding on one sequence"
        expect_rows(logits, expected, subject.tolerance, what=what, contract=contract.ASYNC_DEPTH)


def check_cancel_outstanding(bench: KitBench) -> None:
    subject = bench.subject()
    kept, dropped = subject.open(), subject.open()
    prompt = random_tokens(9, seed=250)
    cancelled = subject.runner.submit(subject.step(KitPart(dropped, prompt)))
    ticket = subject.submit(KitPart(kept, prompt[:5]))
    cancelled.cancel()
    logits = subject.collect(ticket, num_rows=1)
    subject.compare(logits, KitPart(kept, prompt[:5]), what="a step after one that was cancelled meanwhile")
    subject.confirm(KitPart(dropped, prompt), what="a step that is run again after it was cancelled")


CHECKS = (
    Check(name="collect_once", claim="A ticket is collected once, and only one's own.", run=check_collect_once),
    Check(name="cancel", claim="A cancelled step can be run again and harmed nobody.", run=check_cancel),
    Check(
        name="collect_order",
        claim="Outstanding tickets are collected in the order of submit.",
        run=check_collect_order,
        needs="async_depth",
    ),
    Check(
        name="outstanding",
        claim="async_depth tickets may be outstanding, also of one sequence.",
        run=check_outstanding_chain,
        needs="async_depth",
    ),
    Check(
        name="cancel_outstanding",
        claim="Cancelling one of several outstanding tickets spares the others.",
        run=check_cancel_outstanding,
        needs="async_depth",
    ),
)
