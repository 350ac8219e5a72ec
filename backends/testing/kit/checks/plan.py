"""KV memory: within the limit, all of it usable, and refused where nothing fits."""

from __future__ import annotations

import re
from typing import get_args

import msgspec

from backends.api import KVLimit, KVPlan
from backends.errors import CapacityExceeded, RunnerError
from backends.models.spec import ModelSpec
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench, KitLayout
from backends.testing.kit.check import Check
from backends.testing.kit.expect import CheckSkipped, expect, expect_error
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSubject

_FEWEST_BITS = 2
"""Bits of one key or value element; a smaller claim does not count all of them."""


def check_plan_limits(bench: KitBench) -> None:
    subject = bench.subject()
    spec = subject.reference.model.spec
    one = bench.limit(num_sequences=1, context=64)
    bytes_of_one = subject.runner.plan_memory(one)
    enough = bytes_of_one.num_blocks * bytes_of_one.bytes_per_block
    for limit in (
        one,
        bench.limit(num_sequences=5, context=96),
        bench.limit(num_sequences=3, context=10**6),
        bench.limit(num_sequences=64, context=64, max_bytes=3 * enough),
        bench.limit(num_sequences=2, context=17, max_bytes=2 * enough),
    ):
        _within(subject.runner.plan_memory(limit), limit, spec)


def _within(plan: KVPlan, limit: KVLimit, spec: ModelSpec) -> None:
    found = f"{plan} for {limit}"
    context = min(limit.max_context, spec.max_context)
    expect(
        plan.layout == limit.layout, expected=f"the layout {limit.layout}", found=found, contract=contract.WITHIN_LIMIT
    )
    expect(
        plan.num_blocks * plan.bytes_per_block <= limit.max_bytes,
        expected=f"at most {limit.max_bytes} bytes",
        found=found,
        contract=contract.LIMIT,
    )
    expect(plan.num_blocks > 0 and plan.block_tokens > 0, expected="room", found=found, contract=contract.WITHIN_LIMIT)
    if plan.layout == "slot":
        expect(
            plan.num_blocks <= limit.max_sequences and plan.block_tokens <= context,
            expected=f"at most {limit.max_sequences} slots of at most {context} tokens",
            found=found,
            contract=contract.SLOTS,
        )
    else:
        blocks_of_one = -(-context // plan.block_tokens)
        expect(
            blocks_of_one <= plan.num_blocks <= limit.max_sequences * blocks_of_one,
            expected=f"{blocks_of_one} blocks a sequence, for 1 to {limit.max_sequences} sequences",
            found=found,
            contract=contract.BLOCKS,
        )
    elements = plan.block_tokens * spec.kv_bytes_per_token // 4
    expect(
        plan.bytes_per_block * 8 >= elements * _FEWEST_BITS,
        expected=f"bytes_per_block that {elements} keys and values fit into",
        found=found,
        contract=contract.PLAN,
    )


def check_plan_used(bench: KitBench) -> None:
    """Fill every block that was planned, then look whether all sequences are still right."""
    subject = bench.subject(num_sequences=3)
    sequences = [subject.open() for _ in range(_num_sequences(subject))]
    for index, sequence in enumerate(sequences):
        subject.run(KitPart(sequence, random_tokens(subject.context - 1, seed=20 + index)))
    for sequence in sequences:
        subject.confirm(
            KitPart(sequence, [33]), what="the last token that fits, with all KV in use", sentence=contract.PLAN
        )


def _num_sequences(subject: KitSubject) -> int:
    blocks_of_one = -(-subject.context // subject.plan.block_tokens)
    return subject.plan.num_blocks // blocks_of_one


def check_plan_again(bench: KitBench) -> None:
    subject = bench.subject(num_sequences=2)
    subject.run(KitPart(subject.open(), random_tokens(30, seed=7)))
    bench.plan(subject, num_sequences=4, context=128)
    _confirm_prefills(subject, num_sequences=3, length=100)


def _confirm_prefills(subject: KitSubject, *, num_sequences: int, length: int) -> None:
    for index in range(num_sequences):
        part = KitPart(subject.open(), random_tokens(min(length, subject.context), seed=30 + index))
        subject.confirm(part, what="a prefill after a second plan", sentence=contract.WITHIN_LIMIT)


def check_plan_refused(bench: KitBench) -> None:
    subject = bench.subject()
    limit = bench.limit(max_bytes=1)
    error = expect_error(
        CapacityExceeded,
        lambda: subject.runner.plan_memory(limit),
        when="a limit of one byte",
        contract=contract.NOT_EVEN_ONE,
    )
    expect(
        re.search(r"\d", str(error)) is not None,
        expected="a message with the sizes",
        found=str(error),
        contract=contract.NOT_EVEN_ONE,
    )
    bench.plan(subject)
    subject.confirm(KitPart(subject.open(), random_tokens(6, seed=8)), what="a prefill after a plan that was refused")


def check_layout_refused(bench: KitBench) -> None:
    undeclared = [layout for layout in get_args(KitLayout) if layout not in bench.capabilities.kv_layouts]
    if not undeclared:
        raise CheckSkipped("the runner declares every KV layout")
    subject = bench.subject()
    limit = msgspec.structs.replace(bench.limit(), layout=undeclared[0])
    expect_error(
        RunnerError,
        lambda: subject.runner.plan_memory(limit),
        when=f"the layout {undeclared[0]}, which is not declared",
        contract=contract.UNDECLARED,
    )


def check_overlong(bench: KitBench) -> None:
    subject = bench.subject()
    neighbour, sequence = subject.open(), subject.open()
    subject.run(KitPart(neighbour, random_tokens(11, seed=9)))
    room = -(-subject.context // subject.plan.block_tokens) * subject.plan.block_tokens
    subject.confirm(KitPart(sequence, random_tokens(subject.context, seed=10)), what="a sequence as long as planned")
    too_long = KitPart(sequence, random_tokens(room - subject.context + 1, seed=11))
    step = subject.step(too_long, KitPart(neighbour, [40] * len(too_long.tokens)))
    expect_error(
        CapacityExceeded,
        lambda: subject.runner.collect(subject.runner.submit(step)),
        when=f"a sequence of {room + 1} tokens where {subject.context} were planned",
        contract=contract.TOO_LONG,
    )
    subject.confirm(
        KitPart(neighbour, [41]), what="a neighbour of a sequence that was too long", sentence=contract.INTACT
    )
    subject.rewind(sequence, subject.context - 1)
    subject.confirm(KitPart(sequence, [42]), what="a sequence that had become too long", sentence=contract.TOO_LONG)


CHECKS = (
    Check(
        name="plan_limits",
        claim="A plan keeps within bytes, sequences and context, and counts its bytes honestly.",
        run=check_plan_limits,
    ),
    Check(name="plan_used", claim="Every token of every planned slot or block can be used.", run=check_plan_used),
    Check(name="plan_again", claim="A second plan replaces the first.", run=check_plan_again),
    Check(
        name="plan_refused",
        claim="A limit that fits no sequence raises CapacityExceeded with the sizes.",
        run=check_plan_refused,
    ),
    Check(
        name="layout_refused",
        claim="A KV layout that is not declared is refused.",
        run=check_layout_refused,
        layouts=(),
    ),
    Check(
        name="overlong",
        claim="A sequence beyond the plan raises CapacityExceeded before anything is written.",
        run=check_overlong,
    ),
)
