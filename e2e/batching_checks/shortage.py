"""B9: too many requests are told so, and too little memory makes them wait; neither hangs nor harms."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from e2e.harness.completions import complete, completion_body, text_of
from e2e.harness.counters import Counters
from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.shape import assert_error
from e2e.harness.wire import post

AT_ONCE = 40
LONG, PROMPT, TOKENS = 10, 224, 24


def check_b9_queue(target: Target, known: Known, *, num_wait: int) -> None:
    """Requests beyond the queue are told when to retry; all others are served, now and later."""
    (prompt,) = known.random.steady_prompts(rng("queue"), 1, max_tokens=TOKENS, lengths=range(8, 9))
    body = completion_body(prompt, max_tokens=TOKENS, model="queue")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: post(f"{target.api}/completions", body, target.keys.acme), range(AT_ONCE)))

    served = [answer for answer in answers if answer.status_code == 200]
    for answer in answers:
        if answer not in served:
            _assert_told_when(answer)
    assert num_wait <= len(served) < AT_ONCE, f"{len(served)} of {AT_ONCE} were served"
    later = complete(target, prompt, key=target.keys.acme, max_tokens=TOKENS, model="queue")
    expected = known.random.greedy(prompt, TOKENS, ignore_eos=True).text
    assert {text_of(answer) for answer in (later, *(answer.json() for answer in served))} == {expected}
    _assert_idle(target, "queue")


def check_b9_memory(target: Target, known: Known) -> None:
    """Many times more keys and values than fit into memory: every request waits for a turn and is answered rightly."""
    prompts = known.random.steady_prompts(rng("shortage"), LONG, max_tokens=TOKENS, lengths=range(PROMPT, PROMPT + 1))

    with ThreadPoolExecutor(LONG) as pool:
        answers = list(
            pool.map(
                lambda prompt: complete(target, prompt, key=target.keys.acme, max_tokens=TOKENS, model="tight"), prompts
            )
        )

    expected = [known.random.greedy(prompt, TOKENS, ignore_eos=True).text for prompt in prompts]
    assert list(map(text_of, answers)) == expected
    _assert_idle(target, "tight")


def _assert_told_when(answer: httpx.Response) -> None:
    assert_error(answer, 429, 503)
    assert int(answer.headers["retry-after"]) >= 1, answer.headers


def _assert_idle(target: Target, model: str) -> None:
    counters = Counters(target.url)
    for name in ("running", "waiting", "kv_tokens"):
        assert counters.total(f"hostelry_engine_{name}", model=model) == 0, name
