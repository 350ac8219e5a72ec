"""Cost of tenancy per request, from ten tenants to a hundred thousand, and of an idle tenant.

python -m benchmarks.tenancy

A request looks its key up, enters its limits, reserves and settles tokens, and is recorded; no response is made.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from backends.generation import Done, Started, Usage
from backends.testing.backend import FakeBackend
from benchmarks.record import Bar, Numbers, at_most, tables, write_result
from gateway.api.accounting import RequestAccount
from gateway.api.convert import RequestPlan, plan_chat
from gateway.api.schemas.chat import ChatCompletionRequest, ChatMessage
from gateway.api.services import Services
from gateway.metrics import Metrics
from gateway.process.drain import Drain
from gateway.routing import Models, ServedModel
from gateway.tenants.auth.directory import Changes, Directory, KeyEntry, key_digest
from gateway.tenants.limits.limits import Limiter
from gateway.tenants.limits.prices import Price
from gateway.tenants.policy import Caller, Key, Limits, Policy, Tenant
from gateway.tenants.store.database import Database
from gateway.tenants.tasks.recorder import UsageRecorder
from gateway.tenants.usage.journal import Journal

SIZES = (10, 1_000, 100_000)
ROUNDS, REQUESTS = 7, 2_000
REQUEST_BAR_US, IDLE_BAR_BYTES = 100, 65_536
LIMITS = Limits(
    requests_per_minute=10**9,
    tokens_per_minute=10**12,
    concurrent_requests=100,
    tokens_per_day=10**12,
    cost_per_month=10**6,
)
POLICY = Policy(limits=LIMITS)
WIRE = ChatCompletionRequest(model="demo", messages=[ChatMessage(role="user", content="Hi")], max_tokens=16)
STARTED = Started(12, "", 16)
DONE = Done("stop", Usage(prompt_tokens=12, completion_tokens=8))


def main() -> None:
    numbers: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        houses = {count: _house(count, Path(directory)) for count in SIZES}
        costs: dict[int, list[float]] = {count: [] for count in SIZES}
        for _ in range(ROUNDS):
            for count, (services, keys, _) in houses.items():
                costs[count].append(asyncio.run(_microseconds(services, keys)))
    for count, (_, _, num_bytes) in houses.items():
        numbers[str(count)] = {
            "us_a_request": round(statistics.median(costs[count]), 1),
            "idle_tenant_bytes": round(num_bytes / count) if count >= 1000 else None,
        }
    write_result("tenancy", numbers, bars=bars(numbers), command="python -m benchmarks.tenancy")


def bars(numbers: Numbers) -> list[Bar]:
    """A request at every number of tenants; an idle tenant where there are enough to see what one takes."""
    return [bar for count, found in tables(numbers).items() for bar in _bars_at(count, found)]


def _bars_at(count: str, found: Numbers) -> Iterator[Bar]:
    yield at_most(f"{count} tenants: a request", found["us_a_request"], REQUEST_BAR_US, unit="µs")
    if found["idle_tenant_bytes"] is not None:
        yield at_most(f"{count} tenants: an idle one", found["idle_tenant_bytes"], IDLE_BAR_BYTES, unit="bytes")


def _house(count: int, directory: Path) -> tuple[Services, list[bytes], int]:
    """Services with so many tenants, headers of some of their keys, and the memory that they took."""
    gc.collect()
    before = psutil.Process().memory_info().rss
    known, secret = _directory(count)
    taken = psutil.Process().memory_info().rss - before
    limiter = Limiter()
    usage_recorder = UsageRecorder(
        Journal(directory / str(count)), Database(f"sqlite:///{directory}/{count}.db"), limiter
    )
    models = Models([ServedModel(name="demo", backend=FakeBackend(), price=Price(input=0.15, output=0.6))])
    services = Services(
        models=models, directory=known, metrics=Metrics(), drain=Drain(), limiter=limiter, usage_recorder=usage_recorder
    )
    return services, [f"Bearer {key}".encode() for key in secret], taken


def _directory(count: int) -> tuple[Directory, list[str]]:
    """Directory of tenants with one key each; a thousand keys are returned."""
    secret = [f"sk-ho-{secrets.token_urlsafe(32)}" for _ in range(min(count, 1000))]
    digests = [key_digest(key) for key in secret] + [secrets.token_hex(32) for _ in range(count - len(secret))]
    tenants = {f"ten_{n}": Tenant(id=f"ten_{n}", name=f"tenant-{n}", policy=POLICY) for n in range(count)}
    keys = [
        KeyEntry(bytes.fromhex(digest), Key(id=f"key_{n}", tenant_id=f"ten_{n}")) for n, digest in enumerate(digests)
    ]
    return Directory(Changes(version=1, tenants=dict(tenants), keys=tuple(keys))), secret


async def _microseconds(services: Services, headers: list[bytes]) -> float:
    """CPU time of a request, in the median of batches; planning it is not counted."""
    found = []
    for begin in range(0, REQUESTS, 100):
        batch = [headers[(begin + n) % len(headers)] for n in range(100)]
        plans = [_plan(services, services.directory.authenticate([header])) for header in batch]
        start = time.process_time()
        for header, plan in zip(batch, plans, strict=True):
            caller = services.directory.authenticate([header])
            account = RequestAccount(plan, services)
            await account.enter()
            await account.reserve([STARTED])
            account.see(0, STARTED)
            account.see(0, DONE)
            account.close("completed")
            services.limiter.headers(caller)
        found.append((time.process_time() - start) / 100)
    return 1e6 * statistics.median(found)


def _plan(services: Services, caller: Caller) -> RequestPlan:
    route = services.models.route("demo", caller.tenant)
    return plan_chat(
        WIRE,
        route=route,
        caller=caller,
        request_id="req_bench",
        room=services.limiter.room,
        arrived_s=time.perf_counter(),
    )


if __name__ == "__main__":
    main()
