"""P8: usage is what was computed, counted without the server's help, and the metrics add up to it."""

from __future__ import annotations

import time

from e2e.harness.counters import Counters
from e2e.harness.house import Known, Target
from e2e.harness.nonce import rng
from e2e.harness.wire import Json, ask, post_ok, stream

SETTLE_S = 2.0
"""Counters may trail the last byte of an answer by a moment, not more."""


def check_p8(target: Target, known: Known) -> None:
    """Usage equals the independent count for two tenants and models, streamed or not, and so does `/metrics`."""
    before = Counters(target.url)
    spent = {
        ("demo", "acme"): _spend_on_demo(target, known, target.keys.acme),
        ("demo", "globex"): _spend_on_demo(target, known, target.keys.globex),
        ("random", "acme"): _spend_on_random(target, known, target.keys.acme),
    }

    for (model, tenant), usages in spent.items():
        for kind in ("prompt", "completion"):
            expected = sum(usage[f"{kind}_tokens"] for usage in usages)
            _assert_grew(target, before, f"hostelry_{kind}_tokens_total", expected, model=model, tenant=tenant)
        _assert_grew(target, before, "hostelry_requests_total", len(usages), model=model, tenant=tenant)


def _spend_on_demo(target: Target, known: Known, key: str) -> list[Json]:
    url = f"{target.api}/chat/completions"
    usages = []
    for question in ("What is the capital of France?", "Hello!", "Count to 12.", "Überraschung – 東京 🗼?"):
        expected = known.demo.chat(question)
        prompt = known.demo.vocabulary.chat_ids([{"role": "user", "content": question}])
        body = ask(question, max_tokens=40)

        whole = post_ok(url, body, key)["usage"]
        streamed = stream(url, body | {"stream_options": {"include_usage": True}}, key).usage

        _assert_usage(whole, len(prompt), len(expected.ids))
        assert streamed is not None
        _assert_usage(streamed, len(prompt), len(expected.ids))
        usages += [whole, streamed]
    return usages


def _spend_on_random(target: Target, known: Known, key: str) -> list[Json]:
    draw = rng("usage")
    usages = []
    for length, limit in ((1, 1), (9, 17), (100, 3)):
        prompt = draw.choices(range(known.random.vocabulary.size // 2), k=length)
        body: Json = {"model": "random", "prompt": prompt, "max_tokens": limit, "ignore_eos": True}
        usage = post_ok(f"{target.api}/completions", body, key)["usage"]
        _assert_usage(usage, length, limit)
        usages.append(usage)
    text = "The capital of nowhere"
    body = {"model": "random", "prompt": text, "max_tokens": 4, "ignore_eos": True}
    usage = post_ok(f"{target.api}/completions", body, key)["usage"]
    _assert_usage(usage, len(known.random.vocabulary.text_ids(text)), 4)
    return [*usages, usage]


def _assert_usage(usage: Json, prompt: int, completion: int) -> None:
    assert usage["prompt_tokens"] == prompt, f"{usage}, counted {prompt}"
    assert usage["completion_tokens"] == completion, f"{usage}, counted {completion}"
    assert usage["total_tokens"] == prompt + completion, usage


def _assert_grew(target: Target, before: Counters, name: str, expected: float, **labels: str) -> None:
    """The counter grew by exactly that much, at the latest a moment later."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        grown = Counters(target.url).total(name, **labels) - before.total(name, **labels)
        if grown == expected or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert grown == expected, f"{name}{labels} grew by {grown}, not {expected}"
