"""Requests in, events out, over an engine in a thread."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from backends.api import Backend
from backends.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    ModelError,
    Overloaded,
    RequestError,
    TenantQueueFull,
    WaitTooLong,
)
from backends.generation import (
    ChatPrompt,
    Delta,
    Done,
    Failed,
    GenerateRequest,
    Message,
    Sampling,
    Started,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from backends.testing.fake import FakeFaults
from gateway.engine.backend import start_engine_backend
from tests.gateway.engine.making import (
    FOREVER,
    collect,
    end_of,
    inline,
    make_load,
    make_request,
    running_backend,
    text_of,
)


async def test_events_come_in_order_and_usage_is_exact(model_path: Path) -> None:
    """Started, deltas, Done; the usage counts the tokens offered."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        events = await collect(backend, make_request(max_tokens=12))

    deltas = [event for event in events[1:-1] if isinstance(event, Delta)]
    assert isinstance(events[0], Started)
    assert events[0].prompt_tokens == 3
    assert sum(len(delta.token_ids) for delta in deltas) == 12
    assert end_of(events) == Done("length", Usage(prompt_tokens=3, completion_tokens=12))


async def test_it_is_a_backend(model_path: Path) -> None:
    """The protocol's methods are there, and the capabilities are the model's."""
    async with running_backend(make_load(model_path, max_context=64), start=inline()) as backend:
        assert isinstance(backend, Backend)
        assert backend.capabilities().max_context == 64
        assert backend.capabilities().chat
        assert backend.health().ready


async def test_many_at_once_equal_one_by_one(model_path: Path) -> None:
    """Sampled requests with a seed give the same text in company."""
    sampling = [Sampling(temperature=1.0, seed=seed, top_p=0.9) for seed in range(10)]
    requests = [make_request(TextPrompt(f"guest {one.seed}"), max_tokens=20, sampling=one) for one in sampling]
    async with running_backend(make_load(model_path), start=inline()) as backend:
        alone = [text_of(await collect(backend, request)) for request in requests]
        together = await asyncio.gather(*(collect(backend, request) for request in requests))

    assert [text_of(events) for events in together] == alone
    assert len(set(alone)) > 1


async def test_stop_string_cuts_the_text_and_ends_the_sequence(model_path: Path) -> None:
    """The text ends before the stop string; tokens count up to the one that completed it; the engine lets go."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        free = text_of(await collect(backend, make_request(max_tokens=40)))
        stop = free[10:13]
        events = await collect(backend, make_request(max_tokens=FOREVER, stop=(stop,)))
        await collect(backend, make_request(max_tokens=1))

        end = end_of(events)
        stats = backend.stats()

    assert text_of(events) == free.split(stop)[0]
    assert isinstance(end, Done)
    assert end.finish_reason == "stop"
    assert end.usage.completion_tokens == sum(len(e.token_ids) for e in events if isinstance(e, Delta)) < 40
    assert stats is not None
    assert stats.running == 0


async def test_stop_token_is_counted_but_not_shown(model_path: Path) -> None:
    """End of text: reason `stop`, one more token than shown."""
    sampling = Sampling(temperature=0.0, logit_bias={299: 1000.0})
    request = make_request(max_tokens=9, sampling=sampling)
    async with running_backend(make_load(model_path), start=inline()) as backend:
        events = [event async for event in backend.generate(msgspec.structs.replace(request, ignore_eos=False))]

    assert end_of(events) == Done("stop", Usage(prompt_tokens=3, completion_tokens=1))
    assert text_of(events) == ""


async def test_logprobs_carry_bytes(model_path: Path) -> None:
    """One entry a token; the bytes joined are the text."""
    request = make_request(max_tokens=20, sampling=Sampling(temperature=0.0, logprobs=2))
    async with running_backend(make_load(model_path), start=inline()) as backend:
        events = await collect(backend, request)

    entries = [entry for event in events if isinstance(event, Delta) for entry in event.logprobs]
    assert len(entries) == 20
    assert b"".join(entry.utf8 for entry in entries).decode("utf-8", "replace") == text_of(events)
    assert all(entry.top[0][2] == entry.logprob and len(entry.top) == 2 for entry in entries)
    assert all(entry.logprob is not None and entry.logprob <= 0 for entry in entries)


async def test_chat_is_templated(model_path: Path) -> None:
    """A chat is longer than its words, and is not echoed."""
    prompt = ChatPrompt((Message(role="user", content="How many guests?"),))
    async with running_backend(make_load(model_path), start=inline()) as backend:
        events = await collect(backend, make_request(prompt, max_tokens=1))

    assert isinstance(events[0], Started)
    assert events[0].prompt_tokens > 10
    assert events[0].prompt_text == ""


async def test_prompt_text_is_there_for_an_echo(model_path: Path) -> None:
    """Text as given, tokens as text."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        (text, *_) = await collect(backend, make_request(TextPrompt("Zimmer"), max_tokens=1))
        (tokens, *_) = await collect(backend, make_request(TokenPrompt((65, 66)), max_tokens=1))

    assert isinstance(text, Started)
    assert text.prompt_text == "Zimmer"
    assert isinstance(tokens, Started)
    assert len(tokens.prompt_text) == 2


async def test_no_tokens_wanted_is_an_answer(model_path: Path) -> None:
    """`max_tokens=0` never bothers the engine."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        events = await collect(backend, make_request(max_tokens=0))

        assert isinstance(events[0], Started)
        assert events[1:] == [Done("length", Usage(prompt_tokens=3, completion_tokens=0))]
        assert backend.stats() is None


async def test_without_a_limit_the_context_is_filled(model_path: Path) -> None:
    """`max_tokens=None`: prompt and answer together are the context."""
    async with running_backend(make_load(model_path, max_context=64), start=inline()) as backend:
        events = await collect(backend, make_request(max_tokens=None))

    assert end_of(events) == Done("length", Usage(prompt_tokens=3, completion_tokens=61))


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "message"),
    [
        (1500, None, r"length is 1024 tokens, but the prompt has 1500; shorten it by at least 477 tokens"),
        (1024, 1, r"the prompt has 1024; shorten it by at least 1 tokens"),
        (1000, 25, r"has 1000 and max_tokens asks for 25 more; lower max_tokens to 24 or .* at least 1 tokens"),
    ],
)
async def test_what_does_not_fit_is_refused_with_numbers(
    model_path: Path, num_prompt: int, max_tokens: int | None, message: str
) -> None:
    """The caller learns the limit, the count and what would help."""
    request = make_request(TokenPrompt((1,) * num_prompt), max_tokens=max_tokens)
    async with running_backend(make_load(model_path, max_context=1024), start=inline()) as backend:
        with pytest.raises(ContextLengthExceeded, match=message):
            await collect(backend, request)


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        (make_request(adapter="lora"), "model"),
        (make_request(sampling=Sampling(logit_bias={300: 1.0})), "logit_bias"),
        (make_request(TokenPrompt((300,))), "prompt"),
        (make_request(TokenPrompt(())), "prompt"),
        (make_request(max_tokens=-1), "max_tokens"),
        (make_request(stop=("",)), "stop"),
    ],
)
async def test_bad_request_names_its_field(model_path: Path, bad: GenerateRequest, param: str) -> None:
    """Refused before anything was accepted."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        with pytest.raises(RequestError) as refusal:
            await anext(backend.generate(bad))

    assert refusal.value.param == param


async def test_closing_early_frees_the_engine(model_path: Path) -> None:
    """A client that goes away costs one step more at most; the next one gets the slot."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        for _ in range(6):
            events = backend.generate(make_request(max_tokens=FOREVER))
            assert isinstance(await anext(events), Started)
            await anext(events)
            await events.aclose()

        await collect(backend, make_request(max_tokens=2))
        stats = backend.stats()

    assert stats is not None
    assert (stats.running, stats.waiting) == (0, 0)


async def test_full_queue_is_an_answer(model_path: Path) -> None:
    """Four run, one waits, the sixth is told when to come back; its place is not taken."""
    async with running_backend(make_load(model_path, max_waiting=1), start=inline()) as backend:
        running = [backend.generate(make_request(max_tokens=FOREVER)) for _ in range(5)]
        for events in running:
            await anext(events)

        with pytest.raises(Overloaded) as refusal:
            await collect(backend, make_request())

        assert refusal.value.retry_after_s >= 1.0
        for events in running:
            await events.aclose()
        assert isinstance(end_of(await collect(backend, make_request())), Done)


async def test_a_tenants_own_queue_is_its_own_affair(model_path: Path) -> None:
    """The next request of a tenant whose queue is full is refused with its own code; another tenant's waits."""
    load = make_load(model_path, max_waiting=4, max_waiting_per_tenant=1)
    async with running_backend(load, start=inline()) as backend:
        running = [backend.generate(make_request(max_tokens=FOREVER)) for _ in range(5)]
        for events in running:
            await anext(events)

        with pytest.raises(TenantQueueFull, match="1 requests of this tenant already wait") as refusal:
            await collect(backend, make_request())

        assert refusal.value.code == "rate_limit_exceeded"
        other = await collect(backend, make_request(tenant="other"))
        assert isinstance(end_of(other), Done)
        for events in running:
            await events.aclose()


async def test_who_would_wait_too_long_is_told(model_path: Path) -> None:
    """Four long answers run and one waits longer than the target already: the next is refused, until one has ended."""
    load = make_load(model_path, max_waiting=100, ttft_target_s=0.05)
    async with running_backend(load, start=inline(FakeFaults(delay_s=0.002))) as backend:
        running = [backend.generate(make_request(max_tokens=FOREVER)) for _ in range(4)]
        for events in running:
            await anext(events)
            await anext(events)
        waiting = asyncio.create_task(collect(backend, make_request()))
        for _ in range(100):
            await anext(running[0])

        with pytest.raises(WaitTooLong, match="the first token would take about"):
            await collect(backend, make_request())

        for events in running:
            await events.aclose()
        assert isinstance(end_of(await waiting), Done)
        assert isinstance(end_of(await collect(backend, make_request())), Done)


async def test_a_finished_answer_keeps_nobody_out(model_path: Path) -> None:
    """Readers who have not fetched their last events use no slot."""
    async with running_backend(make_load(model_path, max_waiting=1), start=inline()) as backend:
        slow = [backend.generate(make_request(max_tokens=1)) for _ in range(8)]
        for events in slow:
            await anext(events)
            await anext(events)

        assert isinstance(end_of(await collect(backend, make_request())), Done)
        for events in slow:
            await events.aclose()


@pytest.mark.parametrize("num_before", [0, 4])
async def test_a_deadline_ends_the_request(model_path: Path, num_before: int) -> None:
    """Amid its answer or still queued: `Failed` with its code and what was offered so far, and the engine is free."""
    async with running_backend(make_load(model_path), start=inline(FakeFaults(delay_s=0.002))) as backend:
        others = [backend.generate(make_request(max_tokens=FOREVER)) for _ in range(num_before)]
        for events in others:
            await anext(events)
            await anext(events)

        late = await collect(backend, make_request(max_tokens=FOREVER, deadline_s=1.0))

        end = end_of(late)
        assert isinstance(end, Failed)
        assert end.code == "deadline_exceeded"
        shown = sum(len(event.token_ids) for event in late if isinstance(event, Delta))
        assert end.usage == Usage(prompt_tokens=3, completion_tokens=shown)
        assert (shown == 0) == (num_before > 0)
        for other in others:
            await other.aclose()
        await collect(backend, make_request(max_tokens=2))
        stats = backend.stats()
        assert stats is not None
        assert (stats.running, stats.waiting) == (0, 0)


async def test_a_deadline_that_is_met_changes_nothing(model_path: Path) -> None:
    """The same answer as without one."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        free = await collect(backend, make_request())
        met = await collect(backend, make_request(deadline_s=60.0))

    assert (text_of(met), end_of(met)) == (text_of(free), end_of(free))


async def test_a_deadline_that_has_passed_begins_nothing(model_path: Path) -> None:
    """Refused before it was accepted; the field is named."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        with pytest.raises(DeadlineExceeded) as refusal:
            await collect(backend, make_request(deadline_s=-1.0))

        assert refusal.value.param == "deadline_s"
        assert backend.stats() is None


async def test_steps_are_tallied(model_path: Path) -> None:
    """One entry a step: its time, sequences and tokens; one a request for the time in the queue."""
    async with running_backend(make_load(model_path), start=inline()) as backend:
        await asyncio.gather(*(collect(backend, make_request(max_tokens=5)) for _ in range(3)))
        stats, step_histograms = backend.stats(), backend.step_histograms

    assert stats is not None
    for tally in (step_histograms.step_seconds, step_histograms.step_sequences, step_histograms.step_tokens):
        assert tally.buckets()[-1] == ("+Inf", stats.steps)
    assert step_histograms.step_sequences.total == stats.batched_sequences
    assert step_histograms.step_tokens.total == 3 * 3 + 3 * 5
    assert step_histograms.step_seconds.total == pytest.approx(stats.step_time_s)
    assert step_histograms.queue_seconds.buckets()[-1] == ("+Inf", 3.0)


async def test_broken_row_fails_with_its_code(model_path: Path) -> None:
    """Non-finite logits become an error, never text."""
    async with running_backend(make_load(model_path), start=inline(FakeFaults(nan_rows={3: 0}))) as backend:
        events = await collect(backend, make_request())

    end = end_of(events)
    assert isinstance(end, Failed)
    assert (end.code, end.message) == ("engine_failed", "non-finite logits")
    assert end.usage.completion_tokens == 2


async def test_closing_ends_running_requests(model_path: Path) -> None:
    """`aclose` under way: `server_shutdown`, and later requests are rejected."""
    backend = await start_engine_backend(make_load(model_path), name="fake", start=inline())
    await backend.ready()
    events = backend.generate(make_request(max_tokens=FOREVER))
    await anext(events)

    await backend.aclose()
    rest = [event async for event in events]

    end = end_of(rest)
    assert isinstance(end, Failed)
    assert end.code == "server_shutdown"
    with pytest.raises(Overloaded):
        await collect(backend, make_request())
    await backend.aclose()


async def test_loading_is_visible_and_refuses(model_path: Path) -> None:
    """Started at once, not ready, and a request is told to come later."""
    backend = await start_engine_backend(make_load(model_path), name="fake", start=inline())
    try:
        assert not backend.health().ready
        assert backend.health().progress < 1.0
        with pytest.raises(Overloaded, match="loading"):
            await collect(backend, make_request())
        with pytest.raises(ModelError):
            backend.capabilities()
    finally:
        await backend.aclose()
    with pytest.raises(ModelError):
        await backend.ready()


@pytest.mark.parametrize("faults", [FakeFaults(load_failure="tensor q is missing"), None])
async def test_load_failure_is_told_by_ready_and_health(
    model_path: Path, tmp_path: Path, faults: FakeFaults | None
) -> None:
    """The engine's words or the tokenizer's, whichever refuses."""
    path, words = (model_path, "tensor q is missing") if faults else (tmp_path, str(tmp_path))
    backend = await start_engine_backend(make_load(path), name="fake", start=inline(faults))
    try:
        with pytest.raises(ModelError) as failure:
            await backend.ready()

        assert words in str(failure.value)
        assert not backend.health().ready
        assert words in backend.health().detail
    finally:
        await backend.aclose()


async def test_large_prompt_leaves_the_loop_free(model_path: Path) -> None:
    """A long text is tokenized in a thread and comes out the same."""
    long = "guest " * 4000
    async with running_backend(make_load(model_path), start=inline()) as backend:
        (started, *_) = await collect(backend, make_request(TextPrompt(long), max_tokens=1))

    assert isinstance(started, Started)
    assert started.prompt_tokens > 4000
    assert started.prompt_text == long
