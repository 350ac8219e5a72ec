"""P6: a stream shows tokens as they are computed, and adds up to the whole answer."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

import msgspec

from e2e.harness.nonce import rng
from e2e.harness.record import record
from e2e.harness.running_server import Known, Target
from e2e.harness.wire import Arrival, Json, Stream, ask, chat_text, delta_text, post_ok, stream

QUESTION = "Count to 30."
TOKENS = 64
MIN_CHUNKS_A_TOKEN = 0.9
MAX_FIRST_SHARE = 0.4
MIN_STEADY_SHARE = 0.8
TRIES = 3
STEADY = 0.2
"""A gap is steady if it is longer than this share of the median gap; chunks sent in one go have none."""


def check_p6(target: Target, known: Known) -> None:
    check_p6_wire(target, known)
    check_p6_pace(target, known)
    check_p6_split_characters(target, known)
    check_p6_completions(target, known)


def check_p6_wire(target: Target, known: Known) -> None:
    """The bytes on the wire are what OpenAI clients parse, and add up to the answer that is not streamed."""
    body = ask(QUESTION, model="big", max_tokens=TOKENS, ignore_eos=True)
    whole = post_ok(f"{target.api}/chat/completions", body, target.keys.acme)

    seen = stream(
        f"{target.api}/chat/completions", body | {"stream_options": {"include_usage": True}}, target.keys.acme
    )

    assert_wire(seen)
    assert seen.text == chat_text(whole) == known.demo.chat(QUESTION, max_tokens=TOKENS, ignore_eos=True).text
    assert seen.finish_reasons == [whole["choices"][0]["finish_reason"]] == ["length"]
    assert seen.usage == whole["usage"], f"{seen.usage} streamed, {whole['usage']} whole"
    first, last = seen.chunks[0], seen.chunks[-1]
    assert first["choices"][0]["delta"].get("role") == "assistant", first
    assert last["choices"] == [], last
    assert last["usage"], last
    assert len({chunk["id"] for chunk in seen.chunks}) == 1
    assert {chunk["object"] for chunk in seen.chunks} == {"chat.completion.chunk"}


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Arrival of one stream. Shares are of its gaps and of its own time, so that a slow machine changes nothing."""

    chunks: int
    first_share: float
    """Share of the whole time until the first content."""
    steady_share: float

    @property
    def is_even(self) -> bool:
        return (
            self.chunks >= MIN_CHUNKS_A_TOKEN * TOKENS
            and self.first_share <= MAX_FIRST_SHARE
            and self.steady_share >= MIN_STEADY_SHARE
        )


def check_p6_pace(target: Target, known: Known) -> None:
    """Tokens arrive one by one while the next ones are computed; the best of a few streams counts."""
    body = ask(QUESTION, model="big", max_tokens=TOKENS, ignore_eos=True)
    stream(f"{target.api}/chat/completions", body, target.keys.acme)  # warm-up
    paces = []
    for _ in range(TRIES):
        paces.append(_prefill_budget(stream(f"{target.api}/chat/completions", body, target.keys.acme)))
        if paces[-1].is_even:
            break

    record("paris", "stream of 64 tokens", **msgspec.structs.asdict(paces[-1]))
    assert paces[-1].is_even, paces


def _prefill_budget(seen: Stream) -> Pace:
    with_text = [arrival for arrival in seen.arrivals if _has_text(arrival)]
    gaps = [later.at - earlier.at for earlier, later in pairwise(with_text)]
    return Pace(
        chunks=len(with_text),
        first_share=round(with_text[0].at / seen.arrivals[-1].at, 3),
        steady_share=round(sum(gap > STEADY * median(gaps) for gap in gaps) / len(gaps), 3),
    )


def check_p6_split_characters(target: Target, known: Known) -> None:
    """Random tokens cut UTF-8 characters apart; the joined deltas still equal the whole answer byte for byte."""
    prompts = known.random.steady_prompts(rng("split characters"), 4, max_tokens=TOKENS, lengths=range(4, 12))
    for prompt in prompts:
        body: Json = {"model": "random", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        whole = post_ok(f"{target.api}/completions", body, target.keys.acme)["choices"][0]["text"]

        seen = stream(f"{target.api}/completions", body, target.keys.acme)

        expected = known.random.greedy(prompt, TOKENS, ignore_eos=True)
        assert seen.text == whole == expected.text, f"prompt {prompt}"
        assert seen.finish_reasons == ["length"]


def check_p6_completions(target: Target, known: Known) -> None:
    """`/v1/completions` streams the same way, with its own object name."""
    body: Json = {"model": "demo", "prompt": "The capital of France is", "max_tokens": 20, "temperature": 0}
    whole = post_ok(f"{target.api}/completions", body, target.keys.acme)

    seen = stream(f"{target.api}/completions", body | {"stream_options": {"include_usage": True}}, target.keys.acme)

    assert_wire(seen)
    assert seen.text == whole["choices"][0]["text"]
    assert seen.usage == whole["usage"]
    assert {chunk["object"] for chunk in seen.chunks} == {"text_completion"}
    expected = known.demo.greedy(known.demo.vocabulary.text_ids("The capital of France is"), 20)
    assert seen.text == expected.text


def assert_wire(seen: Stream) -> None:
    """Headers and framing of one good stream."""
    assert seen.status == 200, seen.raw[:500]
    assert seen.headers["content-type"] == "text/event-stream; charset=utf-8", seen.headers["content-type"]
    assert seen.headers.get("x-accel-buffering") == "no", seen.headers
    assert "content-encoding" not in seen.headers, seen.headers
    assert seen.headers.get("x-request-id"), seen.headers
    text = seen.raw.decode("utf-8")
    assert text.endswith("data: [DONE]\n\n"), text[-200:]
    assert text.count("data: [DONE]") == 1, text[-200:]
    for event in text.split("\n\n")[:-1]:
        assert event.startswith(("data: ", ":")), f"not a data line: {event[:200]!r}"
        assert "\n" not in event, f"more than one line in an event: {event[:200]!r}"
    assert len(seen.finish_reasons) == 1, seen.finish_reasons


def _has_text(arrival: Arrival) -> bool:
    return arrival.payload != "[DONE]" and bool(delta_text(arrival.chunk))
