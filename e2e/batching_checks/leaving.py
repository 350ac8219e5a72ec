"""B7: nothing is computed for those who have left."""

from __future__ import annotations

import json
import time

import httpx

from e2e.harness.completions import engine, wait_idle
from e2e.harness.counters import Counters
from e2e.harness.running_server import Known, Target
from e2e.harness.wire import TIMEOUT, TLS, ask, delta_text, headers, post_ok

CLIENTS = 10
STEPS = 2
SHORT_ANSWERS = 4
"""Their places are free within that many steps, or in the time that so many answers of one token take."""


def check_b7(target: Target, known: Known) -> None:
    """Ten clients vanish amid their streams; within two steps their places are free, and no token is made more."""
    short_s = _short_answer_s(target)
    _vanish_amid_streams(target)
    left = time.monotonic()
    before = engine(target, "big")
    wait_idle(target, "big")
    freed = time.monotonic() - left

    after = engine(target, "big")
    time.sleep(0.2)  # for tokens that must not come
    assert engine(target, "big")["generated_tokens"] == after["generated_tokens"]
    assert Counters(target.url).total("hostelry_engine_kv_tokens", model="big") == 0
    # A step takes as long as it takes, on a slow engine with new shapes half a second.
    assert freed <= SHORT_ANSWERS * short_s or after["steps"] - before["steps"] <= STEPS, f"{freed:.2f} s, {short_s=}"


def _short_answer_s(target: Target) -> float:
    """The slowest of a few, on this machine as it is now."""
    body = ask("Count to 30.", model="big", max_tokens=1)
    times = []
    for _ in range(4):
        start = time.monotonic()
        post_ok(f"{target.api}/chat/completions", body, target.keys.acme)
        times.append(time.monotonic() - start)
    return max(times[1:])


def _vanish_amid_streams(target: Target) -> None:
    body = ask("Count to 30.", model="big", max_tokens=900, ignore_eos=True, stream=True)
    clients = [httpx.Client(timeout=TIMEOUT, verify=TLS) for _ in range(CLIENTS)]
    url, key = f"{target.api}/chat/completions", headers(target.keys.acme)
    streams = [
        client.send(client.build_request("POST", url, json=body, headers=key), stream=True) for client in clients
    ]
    for each in streams:
        next(line for line in each.iter_lines() if line.startswith("data: ") and delta_text(json.loads(line[6:])))
    for each, client in zip(streams, clients, strict=True):
        each.close()
        client.close()
