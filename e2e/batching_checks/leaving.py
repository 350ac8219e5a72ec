"""B7: nothing is computed for those who have left."""

from __future__ import annotations

import json
import time

import httpx

from e2e.harness.completions import engine, wait_idle
from e2e.harness.counters import Counters
from e2e.harness.house import Known, Target
from e2e.harness.wire import TIMEOUT, TLS, ask, delta_text, headers

CLIENTS = 10
FREE_WITHIN_S, STEPS, PATIENCE_S = 0.25, 2, 3.0


def check_b7(target: Target, known: Known) -> None:
    """Ten clients vanish amid their streams; within two steps their places are free, and no token is made more."""
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
    assert freed <= FREE_WITHIN_S or after["steps"] - before["steps"] <= STEPS, f"{freed:.2f} s"
    assert freed <= PATIENCE_S, f"{freed:.2f} s"


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
