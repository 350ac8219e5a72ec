"""LoRA: each row of a step with its own adapter or none, put, replaced, dropped and refused."""

from __future__ import annotations

import msgspec
import numpy as np

from backends.api import AdapterWeights
from backends.errors import CapacityExceeded
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import CheckSkipped, expect_error, expect_quiet
from backends.testing.kit.reference import Reference
from backends.testing.kit.samples import random_adapter, random_tokens
from backends.testing.kit.subject import KitPart, KitSequence, KitSubject

_FLOATS = ("F32", "F16", "BF16")


def check_lora_rows(bench: KitBench) -> None:
    subject = bench.subject()
    adapted = _put_all(subject)
    sequences = [subject.open(), *(subject.open(lora=slot, reference=adapted[slot]) for slot in adapted)]
    for rounds in range(3):
        order = np.random.default_rng(rounds).permutation(len(sequences))
        parts = [KitPart(sequences[place], random_tokens(_length(subject, rounds, place), seed=290)) for place in order]
        subject.confirm(*parts, what="a step whose rows have different adapters or none", sentence=contract.ADAPTER)


def _length(subject: KitSubject, rounds: int, place: int) -> int:
    """Prompts first, then one token each; of equal length where steps cannot be ragged."""
    if rounds:
        return 1
    return 5 + 3 * int(place) if subject.runner.capabilities().ragged_steps else 9


def _put_all(subject: KitSubject, *, most: int = 3) -> dict[int, Reference]:
    """Adapters of different ranks in the first slots and the last; slot → what it should compute."""
    capabilities = subject.runner.capabilities()
    slots = sorted({*range(min(most, capabilities.lora_slots)), capabilities.lora_slots - 1})[-most:]
    ranks = (min(4, capabilities.lora_max_rank), capabilities.lora_max_rank, 1)
    adapted = {}
    for index, slot in enumerate(slots):
        adapter = _adapter(subject, rank=ranks[index % len(ranks)], seed=300 + index)
        subject.runner.put_adapter(slot, adapter)
        adapted[slot] = subject.reference.adapted(adapter)
    return adapted


def _adapter(subject: KitSubject, *, rank: int, seed: int) -> AdapterWeights:
    return random_adapter(subject.info.lora_shapes, rank=rank, seed=seed)


def check_lora_targets(bench: KitBench) -> None:
    subject = bench.subject()
    for index, target in enumerate(subject.runner.capabilities().lora_targets):
        shapes = {name: shape for name, shape in subject.info.lora_shapes.items() if name.endswith(f".{target}")}
        adapter = random_adapter(shapes, rank=min(3, subject.runner.capabilities().lora_max_rank), seed=310 + index)
        subject.runner.put_adapter(0, adapter)
        sequence = subject.open(lora=0, reference=subject.reference.adapted(adapter))
        part = KitPart(sequence, random_tokens(7, seed=311))
        subject.confirm(part, what=f"an adapter of {target} alone", sentence=contract.LORA_TARGETS)
        subject.close(sequence)


def check_lora_replaced(bench: KitBench) -> None:
    subject = bench.subject()
    max_rank = subject.runner.capabilities().lora_max_rank
    tokens = random_tokens(8, seed=320)
    subject.runner.put_adapter(0, _adapter(subject, rank=max_rank, seed=321))
    subject.run(KitPart(subject.open(lora=0), tokens))
    narrow = _first_layer(_adapter(subject, rank=1, seed=322))
    subject.runner.put_adapter(0, narrow)
    _confirm_adapter(subject, 0, narrow, what="an adapter that replaced a wider one")
    for when in ("drop_adapter", "drop_adapter of an empty slot"):
        expect_quiet(lambda: subject.runner.drop_adapter(0), when=when, contract=contract.DROP_ADAPTER)
    subject.confirm(KitPart(subject.open(), tokens), what="the base after an adapter was dropped")
    subject.runner.put_adapter(0, narrow)
    _confirm_adapter(subject, 0, narrow, what="an adapter that was dropped and put again")


def _first_layer(adapter: AdapterWeights) -> AdapterWeights:
    """The adapter's first layer only, so that remains of a wider one in the other layers show."""
    matrices = {name: pair for name, pair in adapter.matrices.items() if name.startswith("layers.0.")}
    return msgspec.structs.replace(adapter, matrices=matrices)


def _confirm_adapter(subject: KitSubject, slot: int, adapter: AdapterWeights, *, what: str) -> None:
    sequence = subject.open(lora=slot, reference=subject.reference.adapted(adapter))
    for tokens in (random_tokens(8, seed=320), [46]):
        subject.confirm(KitPart(sequence, tokens), what=what, sentence=contract.PUT_ADAPTER)
    subject.close(sequence)


def check_lora_refused(bench: KitBench) -> None:
    subject = bench.subject()
    capabilities = subject.runner.capabilities()
    good = _adapter(subject, rank=1, seed=330)
    subject.runner.put_adapter(0, good)
    wide = _adapter(subject, rank=capabilities.lora_max_rank + 1, seed=331)
    strange = msgspec.structs.replace(good, matrices={**good.matrices, "embed": next(iter(good.matrices.values()))})
    last = capabilities.lora_slots
    for what, slot, adapter in (
        (f"rank {wide.rank}", 0, wide),
        ("the target embed", 0, strange),
        (f"adapter slot {last}", last, good),
        ("adapter slot -1", -1, good),
    ):
        _refused(subject, slot, adapter, when=f"{what}, beyond what is declared")
        if slot:
            _confirm_adapter(subject, 0, good, what=f"another adapter after {what} was refused")
    subject.runner.put_adapter(0, good)
    _confirm_adapter(subject, 0, good, what="an adapter put after others were refused")


def _refused(subject: KitSubject, slot: int, adapter: AdapterWeights, *, when: str) -> None:
    expect_error(
        CapacityExceeded,
        lambda: subject.runner.put_adapter(slot, adapter),
        when=when,
        contract=contract.PUT_REFUSED,
    )


def check_lora_misfits(bench: KitBench) -> None:
    subject = bench.subject()
    good, last = _adapter(subject, rank=1, seed=370), subject.runner.capabilities().lora_slots - 1
    subject.runner.put_adapter(0, good)
    for what, adapter in _misfits(good).items():
        _refused(subject, last, adapter, when=f"an adapter with {what}")
        if last:
            _confirm_adapter(subject, 0, good, what=f"another adapter after one with {what} was refused")
    subject.runner.put_adapter(last, good)
    _confirm_adapter(subject, last, good, what="an adapter put where others were refused")


def _misfits(good: AdapterWeights) -> dict[str, AdapterWeights]:
    """Fault → an adapter whose last matrices do not fit; a runner may have taken the others by then."""
    *_, (name, (a, b)) = good.matrices.items()
    pairs = {
        "a column too many in A": (np.pad(a, ((0, 0), (0, 1))), b),
        "a row too many in B": (a, np.pad(b, ((0, 1), (0, 0)))),
        "a row too few in B": (a, b[:-1]),
        "A and B of a higher rank than it says": (np.repeat(a, 2, axis=0), np.repeat(b, 2, axis=1)),
        "A and B of different ranks": (a, np.repeat(b, 2, axis=1)),
        "A and B transposed": (a.T.copy(), b.T.copy()),
    }
    return {what: msgspec.structs.replace(good, matrices={**good.matrices, name: pair}) for what, pair in pairs.items()}


def check_lora_undeclared(bench: KitBench) -> None:
    if bench.capabilities.lora_slots:
        raise CheckSkipped("the runner declares LoRA")
    subject = bench.subject()
    adapter = random_adapter({"layers.0.q": (256, 128)}, rank=1, seed=340)
    _refused(subject, 0, adapter, when="an adapter, where no slots are declared")
    subject.confirm(KitPart(subject.open(), random_tokens(5, seed=341)), what="a prefill after an adapter was refused")


def check_lora_suspended(bench: KitBench) -> None:
    subject = bench.subject()
    adapter = _adapter(subject, rank=2 if subject.runner.capabilities().lora_max_rank > 1 else 1, seed=350)
    subject.runner.put_adapter(0, adapter)
    subject.runner.suspend()
    subject.runner.resume()
    subject.forget()
    _confirm_adapter(subject, 0, adapter, what="an adapter after suspend and resume")


def check_lora_formats(bench: KitBench) -> None:
    for form in bench.capabilities.lora_formats:
        is_exact = form in _FLOATS
        tolerance = bench.tolerances.logits if is_exact else bench.tolerances.quantized
        subject = bench.subject(bench.samples.stored_as(form), tolerance=tolerance)
        adapted = _put_all(subject, most=2)
        sequences: list[KitSequence] = [subject.open()]
        sequences += [subject.open(lora=slot, reference=reference) for slot, reference in adapted.items()]
        for tokens in (random_tokens(9, seed=360), [47]):
            parts = [KitPart(sequence, tokens) for sequence in sequences]
            subject.confirm(*parts, what=f"adapters beside {form} weights", sentence=contract.LORA_FORMATS)


CHECKS = (
    Check(
        name="lora_rows",
        claim="Rows of one step may all have different adapters, or none.",
        run=check_lora_rows,
        needs="lora_slots",
    ),
    Check(
        name="lora_targets",
        claim="Every declared target is adapted, by itself too.",
        run=check_lora_targets,
        needs="lora_slots",
        layouts=(),
    ),
    Check(
        name="lora_replaced",
        claim="Putting replaces, dropping forgets, and nothing remains of a wider adapter.",
        run=check_lora_replaced,
        needs="lora_slots",
        layouts=(),
    ),
    Check(
        name="lora_refused",
        claim="Ranks, targets and slots beyond what is declared raise CapacityExceeded.",
        run=check_lora_refused,
        needs="lora_slots",
        layouts=(),
    ),
    Check(
        name="lora_misfits",
        claim="Matrices that fit no linear, or not the rank, raise CapacityExceeded.",
        run=check_lora_misfits,
        needs="lora_slots",
        layouts=(),
    ),
    Check(
        name="lora_undeclared",
        claim="A runner without LoRA refuses adapters.",
        run=check_lora_undeclared,
        layouts=(),
    ),
    Check(
        name="lora_suspended",
        claim="Adapters survive suspend and resume.",
        run=check_lora_suspended,
        needs="lora_slots",
        layouts=(),
    ),
    Check(
        name="lora_formats",
        claim="Adapters work beside every declared LoRA format.",
        run=check_lora_formats,
        needs="lora_slots",
        layouts=(),
    ),
)
