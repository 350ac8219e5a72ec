"""Adapters come into slots when they are needed, and no sequence ever runs with another one's."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.api import AdapterWeights, RunnerCapabilities, Step, Ticket
from backends.testing.fake import FakeRunner
from gateway.batching.adapter_slots import AdapterSlots
from gateway.batching.loop import Loop
from gateway.batching.messages import Add, Failure, Output
from tests.gateway.batching.making import make_add, make_paged_loop, run_all, solo_tokens, tokens_of

NAMES = ("a", "b", "c", "d", "e")


class AdaptedRunner(FakeRunner):
    """Two slots; an adapter of scale s makes a sequence see other tokens, by s."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: dict[int, AdapterWeights] = {}
        self.num_put = 0
        self.most_at_once = 0

    def capabilities(self) -> RunnerCapabilities:
        return msgspec.structs.replace(super().capabilities(), lora_slots=2, lora_max_rank=8)

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        assert 0 <= slot < 2
        self.slots[slot] = weights
        self.num_put += 1

    def submit(self, step: Step) -> Ticket:
        self.most_at_once = max(self.most_at_once, len(set(step.lora.tolist()) - {-1}))
        shifts = [0 if slot < 0 else int(self.slots[slot].scale) for slot in step.lora.tolist()]
        moved = (step.token_ids + np.repeat(shifts, np.diff(step.q_start))) % 64
        return super().submit(msgspec.structs.replace(step, token_ids=moved))


def weights(scale: float) -> AdapterWeights:
    return AdapterWeights(rank=1, scale=scale, matrices={})


def make_adapted_loop(*, num_blocks: int = 32, max_sequences: int = 6) -> tuple[Loop, AdaptedRunner]:
    runner = AdaptedRunner()
    known = {name: weights(3.0 * (place + 1)) for place, name in enumerate(NAMES)}
    loop = make_paged_loop(runner, num_blocks=num_blocks, max_sequences=max_sequences, adapters=known)
    return loop, runner


def adapted(number: int, adapter: str | None) -> Add:
    return msgspec.structs.replace(make_add(number, max_tokens=10), adapter=adapter)


def solo(add: Add) -> list[int]:
    if add.adapter is None:
        return solo_tokens(add)
    loop, _ = make_adapted_loop(max_sequences=1)
    assert loop.add(add) is None
    return tokens_of(run_all(loop), add.id)


def run(loop: Loop, adds: list[Add]) -> list[Output]:
    for add in adds:
        assert loop.add(add) is None
    return run_all(loop)


def test_more_adapters_than_slots() -> None:
    """Five adapters and the base model share two slots: each sequence runs as if it were alone, steps hold two adapters
    at once.
    """
    loop, runner = make_adapted_loop()
    adds = [adapted(number, (*NAMES, None)[number % 6]) for number in range(24)]

    outputs = run(loop, adds)

    for add in adds:
        assert tokens_of(outputs, add.id) == solo(add)
    assert runner.most_at_once == 2
    assert tokens_of(outputs, 0) != solo_tokens(make_add(0, max_tokens=10)), "an adapter changes what is said"


def test_an_adapter_that_stays_is_put_once() -> None:
    """Requests one after the other find it in its slot."""
    loop, runner = make_adapted_loop()
    for number in range(4):
        run(loop, [adapted(number, "a")])

    assert runner.num_put == 1
    assert (loop.stats().adapter_hits, loop.stats().adapter_loads) == (3, 1)


def test_an_adapter_sees_no_keys_of_another() -> None:
    """The same prompt with another adapter, or none, is computed from the start."""
    loop, _ = make_adapted_loop()
    prompt = [5] * 40
    outputs = []
    for number, adapter in enumerate(("a", "a", "b", None)):
        add = msgspec.structs.replace(make_add(number, prompt=prompt), adapter=adapter)
        outputs += run(loop, [add])

    cached = [max(output.cached_tokens for output in outputs if output.id == number) for number in range(4)]

    assert cached == [0, 32, 0, 0]


def test_an_unknown_adapter_is_refused() -> None:
    """A sequence with an unknown adapter is refused; it never runs with the base model."""
    loop, _ = make_adapted_loop()

    refusal = loop.add(adapted(1, "z"))

    assert refusal is not None
    assert refusal.error == Failure("invalid_request", "this engine has no adapter z")


def test_held_adapters_stay() -> None:
    """A sequence with another adapter waits while every slot is in use."""
    slots = AdapterSlots(2)
    slots.acquire("a")
    slots.acquire("b")

    assert slots.can_acquire("a")
    assert not slots.can_acquire("c")
    with pytest.raises(ValueError, match="no slot for adapter c"):
        slots.acquire("c")
    slots.release("a")
    slots.acquire("c")
    assert (slots.slot_of("c"), slots.num_loads) == (0, 3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=80))
def test_nothing_is_lost(events: list[tuple[str, bool]]) -> None:
    """An acquired adapter stays in its slot after any operations, and no slot holds another one."""
    slots, held, memory = AdapterSlots(3), list[str](), dict[int, str]()
    for name, is_release in events:
        if is_release and name in held:
            held.remove(name)
            slots.release(name)
        elif slots.can_acquire(name):
            slots.acquire(name)
            held.append(name)
        for placement in slots.take_placements():
            memory[placement.slot] = placement.adapter
        slots.check_integrity()
        assert all(memory[slots.slot_of(each)] == each for each in held)
