"""Slots are handed out once, the lowest first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batching.kv.prefix_index import PrefixIndex
from gateway.batching.kv.slots import SlotAllocator
from gateway.batching.sequence import Sequence
from tests.gateway.batching.making import VOCAB, make_add

SYSTEM = [7] * 32


def sequence(number: int, max_known: int) -> Sequence:
    """Sequence that will have so many tokens."""
    return Sequence(make_add(number, prompt=[1], max_tokens=max_known - 1), arrival=number, vocab_size=VOCAB)


def prompting(number: int, prompt: list[int], *, tenant: str = "default") -> Sequence:
    return Sequence(make_add(number, prompt=prompt, tenant=tenant), arrival=number, vocab_size=VOCAB)


def compute(slots: SlotAllocator, one: Sequence) -> int:
    """Give it a slot and compute its prompt; returns how many tokens were there."""
    num_cached = slots.allocate(one)
    one.num_computed = one.num_known
    slots.computed(one)
    return num_cached


def cached_slots(num_slots: int) -> SlotAllocator:
    return SlotAllocator(num_slots=num_slots, slot_tokens=128, prefixes=PrefixIndex())


def test_lowest_free_slot_comes_first() -> None:
    """A freed low slot is used before a fresh high one."""
    slots = SlotAllocator(num_slots=3, slot_tokens=8)
    for number in (10, 11, 12):
        slots.allocate(sequence(number, 8))
    slots.release(sequence(11, 8))
    slots.release(sequence(10, 8))

    slots.allocate(sequence(13, 1))

    assert slots.blocks_of(13) == [0]
    slots.check_integrity()


def test_full_house_cannot_reserve() -> None:
    """`can_allocate` is false without a free slot, and `allocate` raises."""
    slots = SlotAllocator(num_slots=1, slot_tokens=8)
    slots.allocate(sequence(1, 8))

    assert not slots.can_allocate(sequence(2, 1))
    assert slots.can_ever_allocate(8)
    with pytest.raises(ValueError, match="no slot"):
        slots.allocate(sequence(2, 1))
    slots.check_integrity()


def test_sequence_that_is_too_long_is_refused() -> None:
    """A sequence never has more tokens than its slot."""
    slots = SlotAllocator(num_slots=1, slot_tokens=8)

    assert not slots.can_allocate(sequence(1, 9))
    assert not slots.can_ever_allocate(9)


def test_second_slot_for_one_sequence_is_refused() -> None:
    """Reserving twice would lose a slot."""
    slots = SlotAllocator(num_slots=2, slot_tokens=8)
    slots.allocate(sequence(1, 1))

    with pytest.raises(ValueError, match="already has slot 0"):
        slots.allocate(sequence(1, 1))


@given(st.lists(st.integers(0, 9), max_size=60))
def test_nothing_is_lost(numbers: list[int]) -> None:
    """Every slot is free or allocated exactly once after any operations."""
    slots, held = SlotAllocator(num_slots=4, slot_tokens=8), set[int]()
    for number in numbers:
        if number in held:
            slots.release(sequence(number, 8))
            held.remove(number)
        elif slots.can_allocate(sequence(number, 8)):
            slots.allocate(sequence(number, 8))
            held.add(number)
        slots.check_integrity()

        assert slots.num_free == 4 - len(held)


def test_what_rests_is_taken_over() -> None:
    """A cached slot is taken over where most of its prefix is reused, in whole blocks, never for all of the prompt."""
    slots = cached_slots(4)
    first = prompting(1, [*SYSTEM, 1, 2, 3])
    compute(slots, first)
    slots.release(first)

    again = prompting(2, [*SYSTEM, 1, 2, 4])

    assert compute(slots, again) == 32
    assert [(each.source, each.destination, each.num_tokens) for each in slots.take_copies()] == [(0, 0, 32)]
    assert slots.take_copies() == []
    slots.release(again)
    assert compute(slots, prompting(3, SYSTEM)) == 16


def test_what_runs_is_copied() -> None:
    """A beginning is shared as soon as it is computed, by as many as come."""
    slots = cached_slots(4)
    compute(slots, prompting(1, [*SYSTEM, 1]))

    assert [compute(slots, prompting(number, [*SYSTEM, number])) for number in (2, 3)] == [32, 32]
    assert [(each.source, each.destination) for each in slots.take_copies()] == [(0, 1), (0, 2)]
    slots.check_integrity()


def test_a_long_rest_is_copied() -> None:
    """A short common prefix does not evict a long cached one while there are other slots."""
    slots = cached_slots(2)
    long = prompting(1, [*SYSTEM, *range(60)])
    compute(slots, long)
    slots.release(long)

    assert compute(slots, prompting(2, [*SYSTEM, 63])) == 32
    assert compute(slots, prompting(3, [*SYSTEM, *range(60)])) == 80


def test_another_tenant_finds_nothing() -> None:
    slots = cached_slots(4)
    mine = prompting(1, [*SYSTEM, 1], tenant="mine")
    compute(slots, mine)
    slots.release(mine)

    assert compute(slots, prompting(2, [*SYSTEM, 1], tenant="other")) == 0
    assert compute(slots, prompting(3, [*SYSTEM, 1], tenant="mine")) == 32


def test_what_is_not_sound_is_forgotten() -> None:
    slots = cached_slots(4)
    broken = prompting(1, [*SYSTEM, 1])
    compute(slots, broken)
    slots.release(broken, is_sound=False)

    assert compute(slots, prompting(2, [*SYSTEM, 1])) == 0


def test_a_flood_leaves_a_quiet_tenant_its_prefixes() -> None:
    """The slot evicted is the least recently used one of the tenants that cache more than others."""
    slots = cached_slots(6)
    quiet = [prompting(number, [number] * 17, tenant="quiet") for number in (1, 2)]
    for one in quiet:
        compute(slots, one)
        slots.release(one)
    for number in range(10, 50):
        loud = prompting(number, [number] * 17, tenant="loud")
        compute(slots, loud)
        slots.release(loud)

    assert [compute(slots, prompting(60 + n, [n] * 17, tenant="quiet")) for n in (1, 2)] == [16, 16]
    assert compute(slots, prompting(70, [49] * 17, tenant="loud")) == 16
    assert compute(slots, prompting(71, [10] * 17, tenant="loud")) == 0


def test_scoring_a_prompt_computes_all_of_it() -> None:
    """A scored prompt reuses nothing, because its logits are asked for; other prompts reuse its prefix."""
    slots = cached_slots(4)
    for number in (1, 2):
        add = make_add(number, prompt=[*SYSTEM, 1], prompt_logprobs=0)
        assert compute(slots, Sequence(add, arrival=number, vocab_size=VOCAB)) == 0
    assert compute(slots, prompting(3, [*SYSTEM, 2])) == 32


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.integers(0, 3), st.integers(1, 5), st.booleans()),
        max_size=60,
    )
)
def test_reuse_is_what_it_claims(events: list[tuple[int, str, int, int, bool]]) -> None:
    """A reused slot has exactly the claimed tokens, computed for the same tenant, after any operations."""
    slots = cached_slots(4)
    memory: dict[int, tuple[str, list[int]]] = {}
    held: dict[int, Sequence] = {}
    for number, tenant, kind, blocks, is_sound in events:
        if number in held:
            slots.release(held.pop(number), is_sound=is_sound)
            continue
        one = prompting(number, [*([kind] * 16 * blocks), number], tenant=tenant)
        if slots.can_allocate(one):
            num_cached = slots.allocate(one)
            for reuse in slots.take_copies():
                owner, tokens = memory[reuse.source]
                assert (owner, tokens[: reuse.num_tokens]) == (tenant, one.token_ids[: reuse.num_tokens])
                assert reuse.num_tokens == num_cached < one.num_known
            memory[slots.blocks_of(number)[0]] = (tenant, list(one.token_ids))
            held[number] = one
            if is_sound:
                one.num_computed = one.num_known
                slots.computed(one)
        slots.check_integrity()
