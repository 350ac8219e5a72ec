"""`deadline_s` from outside: what is not complete by then fails, and is computed no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from e2e.harness.completions import engine, wait_idle
from e2e.harness.counters import Counters
from e2e.harness.running_server import Target
from e2e.harness.server import Server
from e2e.harness.shape import assert_error
from e2e.harness.wire import TIMEOUT, TLS, Json, headers, stream
from gateway.demo import MODEL_NAME

KEY = "sk-ho-deadline-0123456789"
PLACES, LONG = 4, 1000
PART = 0.2
"""Deadlines, as a part of the time that the whole answer takes."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("deadlines")
    flags = ["--port", "0", "--data-dir", str(folder), "--api-key", KEY, "--max-batch", str(PLACES)]
    server = Server(flags)
    try:
        yield Target(url=server.wait_ready())
    finally:
        server.stop()


@pytest.fixture(scope="module")
def whole_s(target: Target) -> float:
    """Seconds that the long answer takes, the faster of two."""
    return min(_timed(target)[1] for _ in range(2))


def test_a_late_answer_is_a_504(target: Target, whole_s: float) -> None:
    """Nothing was sent when its time was over: the status tells, and the engine computes for it no more."""
    before = engine(target, MODEL_NAME)["generated_tokens"]

    answer, _ = _timed(target, deadline_s=PART * whole_s)

    assert_error(answer, 504, code="deadline_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    _assert_idle(target)
    assert engine(target, MODEL_NAME)["generated_tokens"] - before < LONG


def test_a_late_stream_ends_with_an_error(target: Target, whole_s: float) -> None:
    """The stream keeps the text produced so far, then sends one error event; the engine stops computing for it."""
    deadline_s = PART * whole_s

    seen = stream(f"{target.api}/completions", _body(deadline_s=deadline_s), KEY)

    assert seen.status == 200
    assert seen.chunks[-1]["error"]["code"] == "deadline_exceeded"
    assert "[DONE]" not in [arrival.payload for arrival in seen.arrivals]
    assert seen.arrivals[0].at < deadline_s <= seen.ended
    assert len(seen.arrivals) < LONG
    _assert_idle(target)


def test_a_deadline_passes_in_the_queue(target: Target, whole_s: float) -> None:
    """A request queued behind as many long answers as can run fails in time without having begun."""
    left = threading.Event()

    def occupy() -> None:
        with httpx.stream(
            "POST", f"{target.api}/completions", json=_body() | {"stream": True}, headers=headers(KEY), timeout=TIMEOUT
        ) as answer:
            for _ in answer.iter_raw():
                if left.is_set():
                    break

    with ThreadPoolExecutor(PLACES) as pool:
        others = [pool.submit(occupy) for _ in range(PLACES)]
        _wait_running(target, PLACES)
        late, _ = _timed(target, deadline_s=PART * whole_s)
        is_first = not any(other.done() for other in others)
        left.set()

    assert is_first, "the long answers were over before the deadline"
    assert_error(late, 504, code="deadline_exceeded")
    _assert_idle(target)


def test_a_deadline_that_is_met(target: Target) -> None:
    """Nothing changes."""
    answer, _ = _timed(target, deadline_s=600, max_tokens=20)

    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 20


def _body(**fields: object) -> Json:
    return {"model": MODEL_NAME, "prompt": "Tell me", "max_tokens": LONG, "ignore_eos": True} | fields


def _timed(target: Target, **fields: object) -> tuple[httpx.Response, float]:
    start = time.monotonic()
    answer = httpx.post(
        f"{target.api}/completions", json=_body(**fields), headers=headers(KEY), timeout=TIMEOUT, verify=TLS
    )
    return answer, time.monotonic() - start


def _wait_running(target: Target, count: int) -> None:
    deadline = time.monotonic() + 60
    while Counters(target.url).total("hostelry_engine_running") < count:
        assert time.monotonic() < deadline, "they never ran"


def _assert_idle(target: Target) -> None:
    wait_idle(target, MODEL_NAME)
    assert Counters(target.url).total("hostelry_engine_kv_tokens") == 0
