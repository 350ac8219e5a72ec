"""Counters and gauges in Prometheus' text format, in a registry of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.generation import Delta, Done, Event, Failed, Started, Usage
from gateway.batching.messages import EngineStats
from gateway.engine.client_side.step_histograms import StepHistograms, Tally
from gateway.engine.messages import Ready
from gateway.routing import Models, ServedModel

RequestOutcome = Literal["completed", "cancelled", "failed", "shutdown", "refused"]

MAX_TENANT_LABELS = 500
"""Tenants beyond this many share the label `other`, so that a scrape stays small."""
_OTHER = "other"
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_FIRST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_REQUEST_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


M = TypeVar("M", Counter, Gauge, Histogram)


class Family(Generic[M]):
    """Metric with its children by labels; the library's own look-up is slow."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._found: dict[tuple[str, ...], M] = {}

    def labels(self, *values: str) -> M:
        found = self._found.get(values)
        if found is None:
            found = self._found[values] = self._metric.labels(*values)
        return found


class Metrics:
    """Everything that `/metrics` shows. Not thread-safe; used on the event loop."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._tenant_labels: set[str] = set()
        by_tenant = ("model", "tenant")
        self._requests = self._counter("requests", "Requests by how they ended.", (*by_tenant, "outcome"))
        self._refused = self._counter("refused", "Requests that were not accepted, by reason.", ("model", "reason"))
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of ended requests.", by_tenant)
        self._completion_tokens = self._counter("completion_tokens", "Generated tokens of ended requests.", by_tenant)
        self._first_token = self._histogram("time_to_first_token", "Arrival to first token.", _FIRST_BUCKETS)
        self._between_tokens = self._histogram("inter_token_latency", "Between two deltas of a choice.", _TOKEN_BUCKETS)
        self._duration = self._histogram("request_duration", "Arrival to end.", _REQUEST_BUCKETS)
        self._in_flight = Family(
            Gauge("hostelry_requests_in_flight", "Accepted and not ended.", ("model",), registry=self._registry)
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Family[Counter]:
        return Family(Counter(f"hostelry_{name}", text, labels, registry=self._registry))

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Family[Histogram]:
        name = f"hostelry_{name}_seconds"
        return Family(Histogram(name, text, ("model",), buckets=buckets, registry=self._registry))

    def watch(self, models: Models) -> None:
        """Read the engines' own numbers at each scrape. Call it once."""
        self._registry.register(EngineCollector(models))

    def render(self) -> bytes:
        """Metrics in text format, version 0.0.4."""
        return generate_latest(self._registry)

    def begin(self, *, model: str, tenant: str, arrived_s: float) -> Meter:
        """Start to measure a request that was routed to `model`; the meter must be ended.

        `arrived_s` is its time of arrival by `time.perf_counter`.
        """
        return Meter(self, model=model, tenant=self._tenant_label(tenant), arrived_s=arrived_s)

    def _tenant_label(self, tenant: str) -> str:
        if tenant not in self._tenant_labels:
            if len(self._tenant_labels) >= MAX_TENANT_LABELS:
                return _OTHER
            self._tenant_labels.add(tenant)
        return tenant


class Meter:
    """Measures one request over all of its choices, and counts it exactly once."""

    def __init__(self, metrics: Metrics, *, model: str, tenant: str, arrived_s: float) -> None:
        self._metrics = metrics
        self._model, self._tenant = model, tenant
        self._arrived_s = arrived_s
        self._last_s: dict[int, float] = {}
        """Time of the last delta of each choice that has begun."""
        self._between = metrics._between_tokens.labels(model)
        self._usages: dict[int, Usage] = {}
        self._new_tokens: dict[int, int] = {}
        self._is_ended = False
        metrics._in_flight.labels(model).inc()

    def see(self, choice: int, event: Event) -> None:
        """Take note of an event of one choice."""
        match event:
            case Delta():
                self._new_tokens[choice] = self._new_tokens.get(choice, 0) + len(event.token_ids)
                self._see_time(choice)
            case Started():
                self._usages[choice] = Usage(prompt_tokens=event.prompt_tokens, completion_tokens=0)
            case Done() | Failed():
                self._usages[choice] = event.usage
                self._new_tokens[choice] = 0

    def usage(self, *, choices_per_prompt: int) -> Usage:
        """Tokens so far: those in a choice's final event, else those in its deltas.

        Choices of one prompt bill it once.
        """
        prompts = [usage for choice, usage in self._usages.items() if choice % choices_per_prompt == 0]
        generated = sum(usage.completion_tokens for usage in self._usages.values())
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
            completion_tokens=generated + sum(self._new_tokens.values()),
            cached_tokens=sum(usage.cached_tokens for usage in prompts),
            accepted_prediction_tokens=sum(usage.accepted_prediction_tokens for usage in self._usages.values()),
        )

    def refuse(self, reason: str) -> None:
        """Count the reason of a rejection; to be followed by `end`."""
        self._metrics._refused.labels(self._model, reason).inc()

    def _see_time(self, choice: int) -> None:
        now = time.perf_counter()
        last_s = self._last_s.get(choice)
        if last_s is not None:
            self._between.observe(now - last_s)
        elif not self._last_s:
            self._metrics._first_token.labels(self._model).observe(now - self._arrived_s)
        self._last_s[choice] = now

    def end(self, outcome: RequestOutcome, *, choices_per_prompt: int) -> None:
        """Count the request; a second call changes nothing."""
        if self._is_ended:
            return
        self._is_ended = True
        metrics, labels = self._metrics, (self._model, self._tenant)
        metrics._in_flight.labels(self._model).dec()
        metrics._requests.labels(*labels, outcome).inc()
        if outcome == "refused":
            return
        usage = self.usage(choices_per_prompt=choices_per_prompt)
        metrics._prompt_tokens.labels(*labels).inc(usage.prompt_tokens)
        metrics._completion_tokens.labels(*labels).inc(usage.completion_tokens)
        metrics._duration.labels(self._model).observe(time.perf_counter() - self._arrived_s)


class EngineCollector(Collector):
    """Reads `EngineStats` of every model at scrape time."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        ready = _gauge("ready", "1 if the model can answer.")
        for model in self._models:
            ready.add_metric([model.name], float(model.backend.health().ready))
        yield ready
        yield self._fallbacks()
        yield from self._memory()
        stats = [(model.name, found) for model in self._models if (found := _stats_of(model)) is not None]
        for name, text in _TOTALS.items():
            yield _filled(CounterMetricFamily(f"hostelry_engine_{name}", text, labels=["model"]), name, stats)
        seconds = CounterMetricFamily("hostelry_engine_step_seconds", "Time in steps.", labels=["model"])
        yield _filled(seconds, "step_time_s", stats)
        for name, text in _GAUGES.items():
            yield _filled(_gauge(name, text), name, stats)
        yield from self._histograms()

    def _memory(self) -> Iterator[GaugeMetricFamily]:
        known = [(model.name, facts) for model in self._models if (facts := _facts_of(model)) is not None]
        for name, (text, field) in _MEMORY.items():
            family = _gauge(name, text)
            for model, facts in known:
                family.add_metric([model], float(getattr(facts, field)))
            yield family

    def _histograms(self) -> Iterator[HistogramMetricFamily]:
        for name, (text, tally_of) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"hostelry_{name}", text, labels=["model"])
            for model in self._models:
                if model.step_histograms is not None:
                    tally = tally_of(model.step_histograms)
                    family.add_metric([model.name], tally.buckets(), tally.total)
            yield family

    def _fallbacks(self) -> GaugeMetricFamily:
        family = _gauge("fallbacks", "Devices or engines that were asked for or are there and could not be had.")
        for model in self._models:
            family.add_metric([model.name], float(len(model.backend.health().fallbacks)))
        return family


_TOTALS = {
    "steps": "Batches run through the model.",
    "batched_sequences": "Sequences, summed over steps.",
    "prefill_tokens": "Prompt tokens computed.",
    "generated_tokens": "Tokens generated.",
    "cached_tokens": "Prompt tokens found in the prefix cache.",
    "preempted": "Sequences sent back to wait, for memory or for another tenant.",
    "adapter_hits": "Sequences that found their adapter in a slot of the runner.",
    "adapter_loads": "Adapters brought into a slot of the runner.",
}
_GAUGES = {
    "running": "Sequences in the batch.",
    "waiting": "Sequences that wait for a slot.",
    "kv_tokens": "Tokens with keys and values stored.",
}


_MEMORY = {
    "weight_bytes": ("Resident weights.", "weight_bytes"),
    "kv_bytes": ("Planned for keys and values.", "kv_bytes"),
    "kv_tokens_capacity": ("Tokens whose keys and values fit.", "kv_tokens"),
}
_HISTOGRAMS: dict[str, tuple[str, Callable[[StepHistograms], Tally]]] = {
    "queue_time_seconds": (
        "Arrival in the engine to the first step.",
        lambda step_histograms: step_histograms.queue_seconds,
    ),
    "engine_step_time_seconds": ("One step.", lambda step_histograms: step_histograms.step_seconds),
    "engine_step_sequences": ("Sequences in a step.", lambda step_histograms: step_histograms.step_sequences),
    "engine_step_tokens": (
        "Tokens computed for prompts or generated, in a step.",
        lambda step_histograms: step_histograms.step_tokens,
    ),
}


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"hostelry_engine_{name}", text, labels=["model"])


def _stats_of(model: ServedModel) -> EngineStats | None:
    return model.stats() if model.stats is not None else None


def _facts_of(model: ServedModel) -> Ready | None:
    return model.facts() if model.facts is not None else None


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, field: str, stats: list[tuple[str, EngineStats]]
) -> CounterMetricFamily | GaugeMetricFamily:
    for model, values in stats:
        family.add_metric([model], float(getattr(values, field)))
    return family
