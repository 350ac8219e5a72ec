"""Histograms of an engine's steps, updated by its messages and read by metric scrapes."""

from __future__ import annotations

from bisect import bisect_left

from gateway.batching.messages import EngineStats
from gateway.engine.messages import Stepped

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Tally:
    """Histogram of values. An upper bound belongs to its bucket, as in Prometheus."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, number of values up to it), the last one without a bound."""
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        seen, found = 0, []
        for name, count in zip(names, self._counts, strict=True):
            seen += count
            found.append((name, float(seen)))
        return found


class StepHistograms:
    """Step histograms of one engine; kept across restarts."""

    def __init__(self) -> None:
        self.step_seconds = Tally(_SECONDS)
        self.step_sequences = Tally(_SEQUENCES)
        self.step_tokens = Tally(_TOKENS)
        self.queue_seconds = Tally(_SECONDS)

    def note(self, message: Stepped, before: EngineStats | None) -> None:
        """Add one message; `before` are the numbers of the one before it from the same engine."""
        for output in message.outputs:
            if output.queued_s:
                self.queue_seconds.add(output.queued_s)
        stats, before = message.stats, before or _NOTHING
        num_steps = stats.steps - before.steps
        if num_steps < 1:
            return
        self.step_seconds.add((stats.step_time_s - before.step_time_s) / num_steps, num_steps)
        self.step_sequences.add((stats.batched_sequences - before.batched_sequences) / num_steps, num_steps)
        self.step_tokens.add((_tokens(stats) - _tokens(before)) / num_steps, num_steps)


_NOTHING = EngineStats(0, 0, 0, 0, 0, 0, 0, 0.0)


def _tokens(stats: EngineStats) -> int:
    """Tokens computed for prompts plus tokens generated."""
    return stats.prefill_tokens + stats.generated_tokens
