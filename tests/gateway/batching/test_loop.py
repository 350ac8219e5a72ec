"""Plan, execute, commit over the fake runner, whose logits depend on every key and value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import Fatal
from backends.generation import Sampling
from backends.testing.fake import FakeFaults
from gateway.batching.kv.prefix_index import PrefixIndex
from gateway.batching.messages import Add, Failure
from tests.gateway.batching.making import VOCAB, make_add, make_loop, run_all, solo_tokens, tokens_of

SAMPLED = Sampling(temperature=0.9, top_p=0.95)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), SAMPLED, Sampling(presence_penalty=1.0)])
@pytest.mark.parametrize("max_step_tokens", [4, 7, 64])
def test_company_changes_nothing(sampling: Sampling, max_step_tokens: int) -> None:
    """Ten sequences joining and leaving a batch of four, in chunks, get what each gets alone."""
    loop = make_loop(max_step_tokens=max_step_tokens)
    adds = [make_add(number, max_tokens=3 + number, sampling=sampling) for number in range(10)]
    outputs = []
    for add in adds:
        assert loop.add(add) is None
        outputs += loop.step()

    outputs += run_all(loop)

    for add in adds:
        assert tokens_of(outputs, add.id) == solo_tokens(add)


def test_each_sequence_ends_once_with_its_reason() -> None:
    """`length` after max_tokens; nothing follows the last output."""
    loop = make_loop()
    for number in range(6):
        loop.add(make_add(number, max_tokens=5))

    outputs = run_all(loop)

    for number in range(6):
        mine = [output for output in outputs if output.id == number]
        assert [output.finish_reason for output in mine] == [None] * 4 + ["length"]


def test_stop_token_ends_and_is_the_last_token() -> None:
    """The sequence stops at the first stop token, which is counted."""
    free = solo_tokens(make_add(1, max_tokens=20))
    stop = free[6]

    loop = make_loop()
    loop.add(make_add(1, max_tokens=20, stop_token_ids=(stop,)))
    outputs = run_all(loop)

    assert outputs[-1].finish_reason == "stop"
    assert tokens_of(outputs, 1) == free[: free.index(stop) + 1]


def test_full_context_ends_with_length() -> None:
    """Prompt and output together fill the context exactly."""
    loop = make_loop(max_context=32)
    loop.add(make_add(1, prompt=range(30), max_tokens=2))

    outputs = run_all(loop)

    assert [output.finish_reason for output in outputs] == [None, "length"]


@pytest.mark.parametrize(
    ("add", "problem"),
    [
        (make_add(1, prompt=[]), "no tokens"),
        (make_add(1, prompt=[VOCAB]), "token ids must lie"),
        (make_add(1, prompt=[-1]), "token ids must lie"),
        (make_add(1, prompt=range(10), max_tokens=247), "exceed 256"),
        (make_add(1, prompt=[1], max_tokens=0), "exceed"),
        (make_add(1, prompt=[1], sampling=Sampling(logit_bias={VOCAB: 1.0})), "logit_bias"),
    ],
)
def test_impossible_sequence_is_refused(add: Add, problem: str) -> None:
    """A refusal is an output, not a crash; nothing waits afterwards."""
    loop = make_loop()

    refusal = loop.add(add)

    assert refusal is not None
    assert refusal.error is not None
    assert refusal.error.code == "invalid_request"
    assert problem in refusal.error.message
    assert not loop.has_work


@pytest.mark.parametrize("steps_before", range(12))
def test_abort_frees_the_room_at_once(steps_before: int) -> None:
    """Waiting, in the middle of its prompt or of its output: gone, and the others do not notice."""
    loop = make_loop(num_slots=2, max_step_tokens=8)
    adds = [make_add(number, prompt=range(20), max_tokens=4) for number in range(3)]
    for add in adds:
        loop.add(add)
    outputs = [output for _ in range(steps_before) for output in loop.step()]

    was_there = loop.abort(1)
    loop.check_integrity()
    outputs_after = run_all(loop)

    had_ended = any(output.id == 1 and output.finish_reason for output in outputs)
    assert was_there != had_ended
    assert tokens_of(outputs_after, 1) == []
    for number in (0, 2):
        assert tokens_of([*outputs, *outputs_after], number) == solo_tokens(adds[number])


def test_unknown_abort_is_ignored() -> None:
    """An unknown id may be aborted, since its sequence may just have ended."""
    assert not make_loop().abort(42)


def test_passing_fault_is_repeated_unseen() -> None:
    """`Retryable` once: the same tokens as without it."""
    loop = make_loop(FakeFaults(retryable_at=(1, 4, 9)))
    add = make_add(1, max_tokens=10)
    loop.add(add)

    outputs = run_all(loop)

    assert tokens_of(outputs, 1) == solo_tokens(add)


def test_fault_that_does_not_pass_is_fatal() -> None:
    """`Retryable` twice in a row ends the engine."""
    loop = make_loop(FakeFaults(retryable_at=(2, 3)))
    loop.add(make_add(1))

    with pytest.raises(Fatal, match="failed twice"):
        run_all(loop)


def test_fatal_is_raised() -> None:
    """The engine process must know."""
    loop = make_loop(FakeFaults(fatal_at=(1,)))
    loop.add(make_add(1))

    with pytest.raises(Fatal, match="ordered"):
        loop.step()


@pytest.mark.parametrize("step", range(1, 30))
def test_running_out_of_memory_once_is_unseen(step: int) -> None:
    """Sequences finish with the tokens that they get alone, whatever step fails once for lack of memory."""
    loop = make_loop(FakeFaults(capacity_at=(step,)))
    adds = [make_add(number, max_tokens=6) for number in range(6)]
    for add in adds:
        loop.add(add)

    outputs = run_all(loop)

    for add in adds:
        assert tokens_of(outputs, add.id) == solo_tokens(add)


def test_batch_shrinks_to_what_fits() -> None:
    """Six sequences finish unchanged with memory for two at a time."""
    loop = make_loop(FakeFaults(max_sequences=2))
    adds = [make_add(number, max_tokens=6) for number in range(6)]
    for add in adds:
        loop.add(add)

    outputs = run_all(loop)

    for add in adds:
        assert tokens_of(outputs, add.id) == solo_tokens(add)


def test_sequence_that_never_fits_gets_the_error() -> None:
    """Alone and still out of memory, three times: `engine_overloaded`, and the next one is served."""
    loop = make_loop(FakeFaults(capacity_at=(1, 2, 3)))
    loop.add(make_add(1))

    failed = run_all(loop)
    loop.add(make_add(2))
    served = run_all(loop)

    assert [(output.id, output.token_ids) for output in failed] == [(1, ())]
    assert failed[0].error is not None
    assert failed[0].error.code == "engine_overloaded"
    assert tokens_of(served, 2) == solo_tokens(make_add(2))


def test_non_finite_row_ends_only_its_sequence() -> None:
    """The other sequence of the step finishes as if nothing had been."""
    loop = make_loop(FakeFaults(nan_rows={4: 0}))
    adds = [make_add(number, prompt=[number, 5], max_tokens=8) for number in range(2)]
    for add in adds:
        loop.add(add)

    outputs = run_all(loop)

    ends = {output.id: output for output in outputs if output.error or output.finish_reason}
    assert ends[0].error == Failure("engine_failed", "non-finite logits")
    assert ends[1].finish_reason == "length"
    assert tokens_of(outputs, 1) == solo_tokens(adds[1])


@pytest.mark.parametrize("max_step_tokens", [7, 64])
@pytest.mark.parametrize("faults", [None, FakeFaults(capacity_at=(5, 9)), FakeFaults(retryable_at=(4, 8))])
def test_the_prefix_cache_changes_nothing(max_step_tokens: int, faults: FakeFaults | None) -> None:
    """Prompts that begin alike, of two tenants, get what each gets alone, and tell how much was there already."""
    prefixes = PrefixIndex()
    loop = make_loop(faults, max_step_tokens=max_step_tokens, prefixes=prefixes, num_spare=2)
    shared = [list(range(48)), [9] * 32]
    adds = [
        make_add(number, prompt=[*shared[number % 2], number], max_tokens=3 + number, tenant="ab"[number % 4 // 2])
        for number in range(20)
    ]
    outputs = []
    for add in adds:
        assert loop.add(add) is None
        outputs += loop.step()
        loop.check_integrity()

    outputs += run_all(loop)

    for add in adds:
        assert tokens_of(outputs, add.id) == solo_tokens(add)
    cached = {output.id: output.cached_tokens for output in outputs}
    assert cached[0] == cached[1] == 0
    assert {cached[number] for number in (16, 18)} == {48}
    assert {cached[number] for number in (17, 19)} == {32}
    assert loop.stats().cached_tokens == sum(cached.values())
    prompts = sum(len(add.token_ids) for add in adds)
    assert faults or loop.stats().prefill_tokens == prompts - loop.stats().cached_tokens


def test_what_became_not_finite_is_not_used_again() -> None:
    loop = make_loop(FakeFaults(nan_rows={1: 0}), max_step_tokens=64, prefixes=PrefixIndex())
    for number in range(3):
        loop.add(make_add(number, prompt=[*[5] * 32, number], max_tokens=4))
        outputs = run_all(loop)
        assert [output.cached_tokens for output in outputs[:1]] == [[0, 0, 32][number]]
        assert (outputs[-1].error is not None) is (number == 0)


def test_stats_add_up() -> None:
    """Prompt tokens, generated tokens and batch sizes are counted exactly."""
    loop = make_loop()
    adds = [make_add(number, max_tokens=4) for number in range(5)]
    for add in adds:
        loop.add(add)

    run_all(loop)

    stats = loop.stats()
    assert stats.prefill_tokens == sum(len(add.token_ids) for add in adds)
    assert stats.generated_tokens == 5 * 4
    assert (stats.running, stats.waiting, stats.kv_tokens) == (0, 0, 0)
    assert stats.batched_sequences >= 5 * 4
    assert stats.steps >= 4


@settings(max_examples=30, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True),
    capacity_at=st.sets(st.integers(1, 40), max_size=6),
    retryable_at=st.sets(st.integers(1, 60).map(lambda number: 2 * number), max_size=6),
    aborted=st.sets(st.integers(0, 30), max_size=3),
    abort_after=st.integers(0, 10),
)
def test_any_mixture_of_faults_keeps_the_books(
    numbers: list[int], capacity_at: set[int], retryable_at: set[int], aborted: set[int], abort_after: int
) -> None:
    """Every sequence that is not aborted ends exactly once, complete or with an overload error; no memory is lost."""
    faults = FakeFaults(capacity_at=tuple(capacity_at), retryable_at=tuple(retryable_at - capacity_at))
    loop = make_loop(faults)
    adds = {number: make_add(number, max_tokens=5, sampling=SAMPLED) for number in numbers}
    for add in adds.values():
        loop.add(add)
    outputs = [output for _ in range(abort_after) if loop.has_work for output in loop.step()]
    gone = {number for number in aborted if loop.abort(number)}

    outputs += run_all(loop)

    for number, add in adds.items():
        if number in gone:
            continue
        ends = [output for output in outputs if output.id == number and (output.error or output.finish_reason)]
        assert len(ends) == 1
        if ends[0].error is None:
            assert tokens_of(outputs, number) == solo_tokens(add)
        else:
            assert ends[0].error.code == "engine_overloaded"
