"""P8: usage is what was computed, counted without the server's help; metrics and usage records add up to it."""

from __future__ import annotations

import time

import msgspec

from e2e.harness.counters import Counters
from e2e.harness.ledger import Ledger, Spent
from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.wire import Json, ask, post_ok, stream

Answers = dict[str, Spent]
"""Tokens as counted here, by the id of each answer."""
SETTLE_S = 15.0
"""Limit against hanging: counters may trail the last byte of an answer by a moment."""


def check_p8(target: Target, known: Known) -> None:
    """Usage equals the independent count for two tenants and models, streamed or not; metrics and records agree."""
    before, ledger = Counters(target.url), Ledger(target)
    spent = {
        ("demo", "acme"): _spend_on_demo(target, known, target.keys.acme),
        ("demo", "globex"): _spend_on_demo(target, known, target.keys.globex),
        ("random", "acme"): _spend_on_random(target, known, target.keys.acme),
    }

    for (model, tenant), answers in spent.items():
        for name, expected in msgspec.structs.asdict(_sum(answers)).items():
            _assert_grew(target, before, f"hostelry_{name}_total", expected, model=model, tenant=tenant)
    _assert_written_down(ledger, spent)


def _assert_written_down(ledger: Ledger, spent: dict[tuple[str, str], Answers]) -> None:
    """Each answer has one row, nothing else has, and the sums are those of the rows."""
    for tenant in sorted({tenant for _, tenant in spent}):
        expected = {
            answer: (model, "completed", tokens)
            for (model, whose), answers in spent.items()
            if whose == tenant
            for answer, tokens in answers.items()
        }
        rows = ledger.rows(tenant)
        assert rows == expected, f"{tenant}: {dict(rows.items() - expected.items())}, not {expected}"
    sums = ledger.grown()
    assert sums == {key: _sum(answers) for key, answers in spent.items()}, sums


def _sum(answers: Answers) -> Spent:
    return Spent(
        requests=len(answers),
        prompt_tokens=sum(each.prompt_tokens for each in answers.values()),
        completion_tokens=sum(each.completion_tokens for each in answers.values()),
    )


def _spend_on_demo(target: Target, known: Known, key: str) -> Answers:
    url = f"{target.api}/chat/completions"
    answers: Answers = {}
    for question in ("What is the capital of France?", "Hello!", "Count to 12.", "Überraschung – 東京 🗼?"):
        expected = known.demo.chat(question)
        prompt = known.demo.vocabulary.chat_ids([{"role": "user", "content": question}])
        body = ask(question, max_tokens=40)

        whole = post_ok(url, body, key)
        streamed = stream(url, body | {"stream_options": {"include_usage": True}}, key)

        assert streamed.usage is not None
        answers |= _counted(whole["id"], whole["usage"], len(prompt), len(expected.ids))
        answers |= _counted(streamed.chunks[0]["id"], streamed.usage, len(prompt), len(expected.ids))
    return answers


def _spend_on_random(target: Target, known: Known, key: str) -> Answers:
    draw = rng("usage")
    answers: Answers = {}
    for length, limit in ((1, 1), (9, 17), (100, 3)):
        prompt = draw.choices(range(known.random.vocabulary.size // 2), k=length)
        body: Json = {"model": "random", "prompt": prompt, "max_tokens": limit, "ignore_eos": True}
        answer = post_ok(f"{target.api}/completions", body, key)
        answers |= _counted(answer["id"], answer["usage"], length, limit)
    text = "The capital of nowhere"
    body = {"model": "random", "prompt": text, "max_tokens": 4, "ignore_eos": True}
    answer = post_ok(f"{target.api}/completions", body, key)
    return answers | _counted(answer["id"], answer["usage"], len(known.random.vocabulary.text_ids(text)), 4)


def _counted(answer: str, usage: Json, prompt: int, completion: int) -> Answers:
    """The answer with its tokens as counted here, after its usage said the same."""
    assert usage["prompt_tokens"] == prompt, f"{usage}, counted {prompt}"
    assert usage["completion_tokens"] == completion, f"{usage}, counted {completion}"
    assert usage["total_tokens"] == prompt + completion, usage
    return {answer: Spent(requests=1, prompt_tokens=prompt, completion_tokens=completion)}


def _assert_grew(target: Target, before: Counters, name: str, expected: float, **labels: str) -> None:
    """The counter grew by exactly that much, at the latest a moment later."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        grown = Counters(target.url).total(name, **labels) - before.total(name, **labels)
        if grown == expected or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert grown == expected, f"{name}{labels} grew by {grown}, not {expected}"
