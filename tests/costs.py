"""Costs of work relative to other work of the same test, since an absolute time would only measure the machine."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

_ROUNDS = 5

Work = Callable[[], object]


def cost_ratio(work: Work, reference: Work, *, rounds: int = _ROUNDS) -> float:
    """CPU time of `work`, where that of `reference` is 1: each the best of `rounds`, taken in turns.

    Counted is the CPU time of the calling thread, which does not grow with what else the machine does. A tracer (that
    of coverage) is suspended meanwhile, since it slows measured code and leaves the code of tests as fast as it is.
    """
    best_work = best_reference = math.inf
    for _ in range(rounds):
        best_reference = min(best_reference, _cpu_seconds(reference))
        best_work = min(best_work, _cpu_seconds(work))
    return best_work / best_reference


def growth(work: Callable[[int], object], size: int, *, times: int = 4, rounds: int = _ROUNDS) -> float:
    """CPU time of `work(times * size)` as a multiple of that of `work(size)`: about `times` if linear."""
    return cost_ratio(lambda: work(times * size), lambda: work(size), rounds=rounds)


def _cpu_seconds(work: Work) -> float:
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        start = time.thread_time()
        work()
        return time.thread_time() - start
    finally:
        sys.settrace(tracer)
