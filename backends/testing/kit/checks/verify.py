"""Several logit rows of one sequence: what speculation verifies its drafts with."""

from __future__ import annotations

from backends.errors import Fatal
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import expect_error, expect_rows
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart

_START = 6


def check_verify(bench: KitBench) -> None:
    subject = bench.subject()
    most = min(subject.runner.capabilities().max_verify_rows, subject.context - _START)
    prompt, draft = random_tokens(_START, seed=200), random_tokens(most, seed=201)
    for num_rows in sorted({2, 3, most // 2, most - 1, most} - {0, 1}):
        sequence = subject.open()
        subject.run(KitPart(sequence, prompt))
        subject.confirm(
            KitPart(sequence, draft[:num_rows], rows=num_rows),
            what=f"{num_rows} rows to verify",
            sentence=contract.VERIFY_ROWS,
        )
        subject.close(sequence)


def check_verify_alone(bench: KitBench) -> None:
    """Compares with the runner itself, more closely than with the oracle."""
    subject = bench.subject()
    num_rows = min(subject.runner.capabilities().max_verify_rows, 8)
    prompt, draft = random_tokens(_START, seed=202), random_tokens(num_rows, seed=203)
    single = subject.open()
    subject.run(KitPart(single, prompt))
    one_by_one = [subject.run(KitPart(single, [token])) for token in draft]
    many = subject.open()
    subject.run(KitPart(many, prompt))
    rows = subject.run(KitPart(many, draft, rows=num_rows))
    for place, expected in enumerate(one_by_one):
        what = f"row {place} of {num_rows} to verify, against a step of its own"
        found = rows[place : place + 1]
        expect_rows(found, expected, bench.tolerances.company, what=what, contract=contract.VERIFY_ROWS)


def check_verify_rejected(bench: KitBench) -> None:
    subject = bench.subject()
    sequence, neighbour = subject.open(), subject.open()
    subject.run(KitPart(sequence, random_tokens(_START, seed=204)))
    subject.run(KitPart(neighbour, random_tokens(17, seed=205)))
    num_rows = min(subject.runner.capabilities().max_verify_rows, 5)
    for accepted in range(1, num_rows):
        length = len(sequence)
        subject.confirm(
            KitPart(sequence, random_tokens(num_rows, seed=206 + accepted), rows=num_rows),
            what="rows to verify after a rejected draft",
            sentence=contract.TRUNCATE,
        )
        subject.rewind(sequence, length + accepted)
    for part in (KitPart(sequence, [80]), KitPart(neighbour, [81])):
        subject.confirm(part, what="a decode step after rejected drafts", sentence=contract.TRUNCATE)


def check_too_many_rows(bench: KitBench) -> None:
    subject = bench.subject()
    num_rows = subject.runner.capabilities().max_verify_rows + 1
    if num_rows > subject.context:
        bench.plan(subject, num_sequences=1, context=num_rows)
    sequence = subject.open()
    step = subject.step(KitPart(sequence, random_tokens(num_rows, seed=207), rows=num_rows))
    expect_error(
        Fatal,
        lambda: subject.runner.collect(subject.runner.submit(step)),
        when=f"{num_rows} logit rows of one sequence",
        contract=contract.VERIFY_ROWS,
    )
    subject.confirm(KitPart(sequence, random_tokens(4, seed=208)), what="a step after too many rows were refused")


CHECKS = (
    Check(
        name="verify",
        claim="Every row of a draft equals the oracle's, up to max_verify_rows.",
        run=check_verify,
        needs="max_verify_rows",
    ),
    Check(
        name="verify_alone",
        claim="Verifying rows together gives what single steps give.",
        run=check_verify_alone,
        needs="max_verify_rows",
    ),
    Check(
        name="verify_rejected",
        claim="Rejected drafts leave no trace.",
        run=check_verify_rejected,
        needs="max_verify_rows",
    ),
    Check(name="too_many_rows", claim="More rows than max_verify_rows raise Fatal.", run=check_too_many_rows),
)
