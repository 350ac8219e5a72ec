"""Steps that no engine should send: rejected before anything is written, without harm to other sequences."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from backends.api import RunnerCapabilities, Step
from backends.errors import Fatal
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.checks.sampling import greedy_rows
from backends.testing.kit.expect import expect_error
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSequence, KitSubject

_Array = TypeVar("_Array", npt.NDArray[np.int32], npt.NDArray[np.int64])

_REWRITTEN = 4
"""Tokens from which a broken step would overwrite its sequences: if it writes at all, they are lost."""


def check_broken_steps(bench: KitBench) -> None:
    subject = bench.subject()
    sequences = [subject.open() for _ in range(3)]
    for index, sequence in enumerate(sequences):
        subject.run(KitPart(sequence, random_tokens(9 + index, seed=210 + index)))
    for fault, step in _broken(_overwriting(subject, sequences[:2]), subject).items():
        expect_error(Fatal, partial(_run, subject, step), when=fault, contract=contract.BROKEN)
        _confirm_intact(subject, sequences, fault=fault)


def _run(subject: KitSubject, step: Step) -> object:
    return subject.runner.collect(subject.runner.submit(step))


def _confirm_intact(subject: KitSubject, sequences: list[KitSequence], *, fault: str) -> None:
    for sequence in sequences:
        length = len(sequence)
        subject.confirm(
            KitPart(sequence, [82]), what=f"a sequence after {fault} was refused", sentence=contract.TOO_LONG
        )
        subject.rewind(sequence, length)


def _overwriting(subject: KitSubject, sequences: list[KitSequence]) -> Step:
    """A sound step that rewrites three tokens of each sequence, from the `_REWRITTEN`-th on."""
    kept = [list(sequence.tokens) for sequence in sequences]
    for sequence in sequences:
        del sequence.tokens[_REWRITTEN:]
    step = subject.step(*(KitPart(sequence, [90, 91, 92]) for sequence in sequences))
    for sequence, tokens in zip(sequences, kept, strict=True):
        sequence.tokens[:] = tokens
    return step


def _broken(step: Step, subject: KitSubject) -> dict[str, Step]:
    """Fault → the step with this one fault."""
    capabilities = subject.runner.capabilities()
    broken = _broken_shapes(step) | _broken_places(step) | _broken_values(step, subject, capabilities)
    return broken | (_broken_blocks(step, subject) if subject.is_paged else _broken_slots(step, subject))


def _broken_shapes(step: Step) -> dict[str, Step]:
    nothing = {field: _array(step, field)[:0] for field in ("token_ids", "positions", "kv_len", "slot", "lora")}
    nobody = msgspec.structs.replace(step, **nothing, q_start=step.q_start[:1], logit_rows=step.logit_rows[:0])
    return {
        "a step without sequences": nobody,
        "a sequence without tokens": msgspec.structs.replace(step, q_start=_changed(step.q_start, 1, 0)),
        "q_start that does not begin at 0": msgspec.structs.replace(step, q_start=_changed(step.q_start, 0, 1)),
        "q_start that does not end at T": msgspec.structs.replace(step, q_start=_changed(step.q_start, 2, 5)),
        "fewer slots than sequences": msgspec.structs.replace(step, slot=step.slot[:1]),
        "fewer adapters than sequences": msgspec.structs.replace(step, lora=step.lora[:1]),
        "fewer positions than tokens": msgspec.structs.replace(step, positions=step.positions[:-1]),
    }


def _broken_places(step: Step) -> dict[str, Step]:
    return {
        "positions that leave a gap": msgspec.structs.replace(step, positions=step.positions + np.int32(1)),
        "positions that go back": msgspec.structs.replace(step, positions=_changed(step.positions, 2, _REWRITTEN)),
        "kv_len less than the new tokens": msgspec.structs.replace(step, kv_len=_changed(step.kv_len, 0, 2)),
        "a logit row beyond the tokens": msgspec.structs.replace(step, logit_rows=_changed(step.logit_rows, 1, 6)),
        "a negative logit row": msgspec.structs.replace(step, logit_rows=_changed(step.logit_rows, 0, -1)),
        "descending logit rows": msgspec.structs.replace(step, logit_rows=step.logit_rows[::-1].copy()),
    }


def _broken_values(step: Step, subject: KitSubject, capabilities: RunnerCapabilities) -> dict[str, Step]:
    vocab_size, slots = subject.info.vocab_size, capabilities.lora_slots
    broken = {
        "a token id beyond the vocabulary": msgspec.structs.replace(
            step, token_ids=_changed(step.token_ids, 1, vocab_size)
        ),
        "a token id that refers to no row": msgspec.structs.replace(step, token_ids=_changed(step.token_ids, 1, -9)),
        "an adapter slot that does not exist": msgspec.structs.replace(step, lora=_changed(step.lora, 0, slots)),
        "an adapter slot of -2": msgspec.structs.replace(step, lora=_changed(step.lora, 0, -2)),
    }
    if not capabilities.device_sampling:
        sampling = greedy_rows(len(step.logit_rows))
        broken["sampling that is not declared"] = msgspec.structs.replace(step, sampling=sampling)
    return broken


def _broken_slots(step: Step, subject: KitSubject) -> dict[str, Step]:
    return {
        "a slot beyond the plan": msgspec.structs.replace(step, slot=_changed(step.slot, 1, subject.plan.num_blocks)),
        "a negative slot": msgspec.structs.replace(step, slot=_changed(step.slot, 1, -1)),
        "a slot named twice": msgspec.structs.replace(step, slot=step.slot[[0, 0]]),
    }


def _broken_blocks(step: Step, subject: KitSubject) -> dict[str, Step]:
    table, slot_map = step.block_table, step.slot_map
    assert table is not None
    assert slot_map is not None
    beyond, negative = table.copy(), table.copy()
    beyond[0, 0], negative[0, 0] = subject.plan.num_blocks, -1
    return {
        "no block table": msgspec.structs.replace(step, block_table=None),
        "no slot map": msgspec.structs.replace(step, slot_map=None),
        "a block beyond the plan": msgspec.structs.replace(step, block_table=beyond),
        "a negative block": msgspec.structs.replace(step, block_table=negative),
        "a slot map that contradicts the table": msgspec.structs.replace(step, slot_map=slot_map[::-1].copy()),
        "two sequences that write one block": msgspec.structs.replace(
            step, block_table=table[[0, 0]], slot_map=np.concatenate([slot_map[:3], slot_map[:3]])
        ),
    }


def _array(step: Step, field: str) -> npt.NDArray[np.int32]:
    array: npt.NDArray[np.int32] = getattr(step, field)
    return array


def _changed(array: _Array, place: int, value: int) -> _Array:
    copy = array.copy()
    copy[place] = value
    return copy


CHECKS = (
    Check(
        name="broken_steps",
        claim="A step that breaks the rules raises Fatal and harms nobody's KV.",
        run=check_broken_steps,
    ),
)
