"""Cost of planning a step, as the number of running sequences and of waiting tenants grows. No model is involved.

python -m benchmarks.scheduler
"""

from __future__ import annotations

import statistics
import time

from backends.generation import Sampling, Share
from backends.kv import BLOCK_TOKENS
from benchmarks.record import Bar, Numbers, at_most, tables, write_result
from gateway.batching.admission import AdmissionOrder, FirstComeFirstServed
from gateway.batching.fairness import FairShare
from gateway.batching.kv.allocator import KVAllocator
from gateway.batching.kv.blocks import BlockAllocator
from gateway.batching.kv.prefix_index import PrefixIndex
from gateway.batching.kv.slots import SlotAllocator
from gateway.batching.messages import Add
from gateway.batching.scheduler import Chunk, Scheduler, StepLimits
from gateway.batching.sequence import Sequence

RUNNING = (16, 64, 256, 1000)
TENANTS = (1, 100, 10_000)
STEPS, CONTEXT = 400, 1024
BARS_US = {64: 150, 256: 600}
"""Running sequences → the most that a plan may take, whatever the number of tenants."""


def main() -> None:
    numbers: dict[str, object] = {"unit": "microseconds a plan, in the median"}
    for layout in ("paged", "slot"):
        for name, order in (("fair", FairShare), ("fcfs", FirstComeFirstServed)):
            numbers[f"{layout}, {name}"] = {
                f"{running} running": {
                    f"{tenants} tenants": _microseconds(order(), running, tenants, layout) for tenants in TENANTS
                }
                for running in RUNNING
            }
    write_result("scheduler", numbers, bars=bars(numbers), command="python -m benchmarks.scheduler")


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of each layout and order, by the worst of all numbers of tenants."""
    return [
        at_most(f"{kind}: a plan, {running} running", max(found[f"{running} running"].values()), bar, unit="µs")
        for kind, found in tables(numbers).items()
        for running, bar in BARS_US.items()
    ]


def _kv(layout: str, running: int) -> KVAllocator:
    if layout == "slot":
        return SlotAllocator(num_slots=running, slot_tokens=CONTEXT, prefixes=PrefixIndex())
    return BlockAllocator(num_blocks=running * CONTEXT // BLOCK_TOKENS, block_tokens=BLOCK_TOKENS)


def _microseconds(order: AdmissionOrder, running: int, tenants: int, layout: str) -> float:
    """Microseconds of a plan with all slots taken, a waiting sequence per tenant and one that ends in every step."""
    limits = StepLimits(max_sequences=running, max_step_tokens=running + 64, max_context=CONTEXT)
    scheduler = Scheduler(limits, _kv(layout, running), order)
    number = 0
    for number in range(running + max(tenants, STEPS)):
        scheduler.add(_sequence(number, tenant=f"tenant-{number % tenants}"))
    while scheduler.num_running < running:
        _commit(scheduler, scheduler.plan())
    taken = []
    for _ in range(STEPS):
        start = time.perf_counter()
        plan = scheduler.plan()
        taken.append(time.perf_counter() - start)
        _commit(scheduler, plan)
        number += 1
        scheduler.finish(plan[0].sequence)
        scheduler.add(_sequence(number, tenant=f"tenant-{number % tenants}"))
    return round(1e6 * statistics.median(taken), 1)


def _commit(scheduler: Scheduler, plan: list[Chunk]) -> None:
    for chunk in plan:
        scheduler.computed(chunk)
        if chunk.samples:
            chunk.sequence.append(1)


def _sequence(number: int, *, tenant: str) -> Sequence:
    add = Add(
        id=number,
        token_ids=(1, 2),
        max_tokens=CONTEXT - 2,
        sampling=Sampling(),
        seed=number,
        share=Share(tenant=tenant),
    )
    return Sequence(add, arrival=number, vocab_size=10)


if __name__ == "__main__":
    main()
