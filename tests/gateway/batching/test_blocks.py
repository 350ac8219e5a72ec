"""Blocks are shared by those who may, kept while they can, and never lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from backends.testing.fake import FakeFaults
from gateway.batching.fairness import FairShare
from gateway.batching.kv.blocks import BlockAllocator
from gateway.batching.kv.evictable import EvictableBlocks
from gateway.batching.messages import Failure, Output
from gateway.batching.sequence import Sequence
from tests.gateway.batching.making import (
    VOCAB,
    make_add,
    make_paged_loop,
    run_all,
    solo_tokens,
    tokens_of,
)

SIZE = 16
SYSTEM = [7] * 32


def prompting(number: int, prompt: list[int], *, tenant: str = "default") -> Sequence:
    return Sequence(make_add(number, prompt=prompt, tenant=tenant), arrival=number, vocab_size=VOCAB)


def make_blocks(num_blocks: int = 16) -> BlockAllocator:
    return BlockAllocator(num_blocks=num_blocks, block_tokens=SIZE)


def compute(blocks: BlockAllocator, one: Sequence) -> int:
    """Allocate and compute all its known tokens; returns how many were cached."""
    num_cached = blocks.allocate(one)
    one.num_computed = one.num_known
    blocks.computed(one)
    return num_cached


def serve(blocks: BlockAllocator, one: Sequence) -> int:
    num_cached = compute(blocks, one)
    blocks.release(one)
    blocks.check_integrity()
    return num_cached


def test_a_room_is_as_large_as_its_tokens() -> None:
    """An allocation is as large as its tokens, and grows block by block."""
    blocks = make_blocks()
    one = prompting(1, [1] * 17)
    blocks.allocate(one)

    assert len(blocks.blocks_of(1)) == 2
    assert blocks.extend(one, 32)
    assert len(blocks.blocks_of(1)) == 2
    assert blocks.extend(one, 33)
    assert len(blocks.blocks_of(1)) == 3
    blocks.check_integrity()


def test_a_common_beginning_is_held_together() -> None:
    """Whole blocks of it, while their owner still runs; at least one token is left to compute."""
    blocks = make_blocks()
    compute(blocks, prompting(1, [*SYSTEM, 1, 2, 3]))
    second = prompting(2, [*SYSTEM, 9])
    third = prompting(3, SYSTEM)

    assert compute(blocks, second) == 32
    assert compute(blocks, third) == 16
    assert blocks.blocks_of(2)[:2] == blocks.blocks_of(1)[:2]
    assert blocks.blocks_of(3)[:1] == blocks.blocks_of(1)[:1]
    assert blocks.take_copies() == []
    blocks.check_integrity()


def test_what_ended_is_found_again() -> None:
    """The blocks of a finished sequence, generated tokens included, are found again; another tenant finds none."""
    blocks = make_blocks()
    first = prompting(1, [*SYSTEM, 1])
    compute(blocks, first)
    for token in range(20):
        first.append(token)
    assert blocks.extend(first, first.num_known)
    first.num_computed = first.num_known - 1
    blocks.computed(first)
    blocks.release(first)

    assert serve(blocks, prompting(2, first.token_ids, tenant="other")) == 0
    assert serve(blocks, prompting(3, first.token_ids)) == 48


def test_what_is_not_sound_is_never_found() -> None:
    """Blocks that are not sound are never found, not even by sequences that share them already."""
    blocks = make_blocks()
    first, second = prompting(1, [*SYSTEM, 1]), prompting(2, [*SYSTEM, 2])
    compute(blocks, first)
    compute(blocks, second)
    blocks.release(second, is_sound=False)

    assert serve(blocks, prompting(3, [*SYSTEM, 3])) == 0
    blocks.release(first)
    blocks.check_integrity()


def test_a_full_house_cannot_reserve() -> None:
    """The question says no and the deed is refused; alone, everything may be had."""
    blocks = make_blocks(4)
    blocks.allocate(prompting(1, [1] * 48))

    assert not blocks.can_allocate(prompting(2, [2] * 16)), "the one that runs may need the last block"
    with pytest.raises(ValueError, match="no blocks for 16 tokens: 1 free of 4"):
        blocks.allocate(prompting(2, [2] * 16))
    assert blocks.can_ever_allocate(64)
    assert not blocks.can_ever_allocate(65)


def test_a_second_room_is_refused() -> None:
    """Reserving twice would lose blocks."""
    blocks = make_blocks()
    blocks.allocate(prompting(1, [1]))

    with pytest.raises(ValueError, match="already has blocks"):
        blocks.allocate(prompting(1, [1]))


def test_growing_fails_without_a_trace() -> None:
    """An allocation that cannot grow because no block is left stays unchanged."""
    blocks = make_blocks(4)
    first, second = prompting(1, [1] * 16), prompting(2, [2] * 16)
    blocks.allocate(first)
    blocks.allocate(second)

    assert not blocks.extend(first, 64)
    assert len(blocks.blocks_of(1)) == 1
    blocks.release(second)
    assert blocks.extend(first, 64)
    blocks.check_integrity()


def test_a_flood_does_not_push_out_a_quiet_tenant() -> None:
    """Prefixes that a quiet tenant keeps within the reserve survive a thousand prompts of another."""
    blocks = make_blocks(32)
    quiet = prompting(1, [3] * 97, tenant="quiet")
    assert serve(blocks, quiet) == 0
    running = prompting(2, [4] * 200, tenant="loud")
    blocks.allocate(running)
    for number in range(1000):
        prompt = [number % VOCAB, number // VOCAB, *([5] * 60)]
        serve(blocks, prompting(10 + number, prompt, tenant="loud"))

    assert serve(blocks, prompting(3, [3] * 97, tenant="quiet")) == 96


def test_the_end_of_a_prompt_goes_before_its_beginning() -> None:
    """A beginning without an end is of use, an end without a beginning is not."""
    blocks = make_blocks(8)
    serve(blocks, prompting(1, [1] * 97))
    serve(blocks, prompting(2, [2] * 33))

    assert serve(blocks, prompting(3, [1] * 97)) == 80


class Kept(RuleBasedStateMachine):
    """Random tenants and prompts against memory that remembers who computed what in which block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = make_blocks(12)
        self.memory: dict[int, tuple[str, list[int]]] = {}
        self.held: dict[int, Sequence] = {}
        self.num_added = 0

    @rule(tenant=st.sampled_from("abc"), kind=st.integers(0, 2), length=st.integers(1, 70), is_sound=st.booleans())
    def come(self, tenant: str, kind: int, length: int, is_sound: bool) -> None:
        self.num_added += 1
        one = prompting(self.num_added, [kind] * length, tenant=tenant)
        if not self.blocks.can_allocate(one):
            return
        num_cached = self.blocks.allocate(one)
        assert num_cached < one.num_known
        for number, block in enumerate(self.blocks.blocks_of(one.id)[: num_cached // SIZE]):
            assert self.memory[block] == (tenant, one.token_ids[: (number + 1) * SIZE])
        self._write(one, num_cached)
        self.held[one.id] = one
        if is_sound:
            one.num_computed = one.num_known
            self.blocks.computed(one)

    @rule(data=st.data(), num_tokens=st.integers(1, 40))
    def extend(self, data: st.DataObject, num_tokens: int) -> None:
        if not self.held:
            return
        one = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        if one.num_known + num_tokens <= self.blocks.capacity and self.blocks.extend(one, one.num_known + num_tokens):
            before = one.num_known
            for _ in range(num_tokens):
                one.append(1)
            self._write(one, before)
            if one.num_computed:
                one.num_computed = one.num_known
                self.blocks.computed(one)

    @rule(data=st.data(), is_sound=st.booleans())
    def leave(self, data: st.DataObject, is_sound: bool) -> None:
        if self.held:
            number = data.draw(st.sampled_from(sorted(self.held)))
            self.blocks.release(self.held.pop(number), is_sound=is_sound)

    @invariant()
    def nothing_is_lost(self) -> None:
        self.blocks.check_integrity()
        places = [block for number in self.held for block in self.blocks.blocks_of(number)]
        assert self.blocks.num_free == 12 - len(set(places))

    def _write(self, one: Sequence, start: int) -> None:
        """Shared blocks are never written."""
        for number, block in enumerate(self.blocks.blocks_of(one.id)):
            if (number + 1) * SIZE <= start:
                continue
            holders = [other for other in self.held if block in self.blocks.blocks_of(other) and other != one.id]
            assert not holders
            self.memory[block] = (one.share.tenant, one.token_ids[: (number + 1) * SIZE])


Kept.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestKept: Any = Kept.TestCase  # Any: hypothesis builds the class at run time


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcd")), max_size=120))
def test_the_largest_scope_is_known(events: list[tuple[int, str]]) -> None:
    """The largest scope is known after any additions and removals."""
    resting = EvictableBlocks()
    kept: dict[int, str] = {}
    for block, scope in events:
        if block in kept:
            resting.remove(block)
            del kept[block]
        else:
            resting.add(block, scope)
            kept[block] = scope
        resting.check_integrity()
        if kept:
            sizes = {scope: list(kept.values()).count(scope) for scope in kept.values()}
            assert sizes[kept[resting.oldest_of_largest()]] == max(sizes.values())

    assert len(resting) == len(kept)
    assert sorted(resting) == sorted(kept)


def outputs_of(loop_blocks: int, adds: int, **options: Any) -> list[Output]:  # Any: those of `make_paged_loop`
    loop = make_paged_loop(num_blocks=loop_blocks, **options)
    for number in range(adds):
        assert loop.add(make_add(number, max_tokens=30, tenant=f"tenant {number % 3}")) is None
    return run_all(loop)


@pytest.mark.parametrize("num_blocks", [5, 8, 16, 64])
@pytest.mark.parametrize("has_prefixes", [True, False])
def test_memory_decides_nothing_but_when(num_blocks: int, has_prefixes: bool) -> None:
    """Sequences wait and preempt each other when memory is short; each still gets its own tokens."""
    outputs = outputs_of(num_blocks, 12, order=FairShare(), has_prefixes=has_prefixes)

    for number in range(12):
        assert tokens_of(outputs, number) == solo_tokens(make_add(number, max_tokens=30))


def test_little_memory_preempts() -> None:
    """Sequences are preempted when memory is short, and their blocks are found again."""
    loop = make_paged_loop(num_blocks=6, max_sequences=4)
    for number in range(4):
        loop.add(make_add(number, prompt=[number] * 20, max_tokens=40))

    outputs = run_all(loop)

    assert loop.stats().preempted > 0
    for number in range(4):
        expected = solo_tokens(make_add(number, prompt=[number] * 20, max_tokens=40))
        assert tokens_of(outputs, number) == expected


def test_faults_of_steps_leave_blocks_sound() -> None:
    """Blocks stay sound after out of memory, a retry, and values that are not finite: unaffected sequences get their
    tokens.
    """
    faults = FakeFaults(capacity_at=(3, 11), retryable_at=(6,), nan_rows={9: 0})
    loop = make_paged_loop(faults=faults)
    for number in range(6):
        loop.add(make_add(number, max_tokens=20))

    outputs = run_all(loop)

    failed = {output.id for output in outputs if output.error}
    assert len(failed) == 1
    for number in set(range(6)) - failed:
        assert tokens_of(outputs, number) == solo_tokens(make_add(number, max_tokens=20))


def test_a_sequence_that_never_fits_is_refused() -> None:
    """A sequence that can never fit is refused without waiting, and the error states the numbers."""
    loop = make_paged_loop(num_blocks=4)

    refusal = loop.add(make_add(1, prompt=[1] * 40, max_tokens=40))

    assert refusal is not None
    assert refusal.error == Failure("invalid_request", "40 prompt and 40 new tokens exceed 64")
