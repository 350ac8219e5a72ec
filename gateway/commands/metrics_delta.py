"""Computes rates, means and quantiles between two scrapes of `/metrics`."""

from __future__ import annotations

from collections import defaultdict

import msgspec
from prometheus_client.parser import text_string_to_metric_families

_FIRST, _BETWEEN = "hostelry_time_to_first_token_seconds", "hostelry_inter_token_latency_seconds"
_QUEUE, _STEP = "hostelry_queue_time_seconds", "hostelry_engine_step_time_seconds"
_STEPS = "hostelry_engine_steps_total"

Labels = tuple[tuple[str, str], ...]


class Scrape(msgspec.Struct, frozen=True):
    """Samples by name and sorted labels; `at` in monotonic seconds."""

    at: float
    samples: dict[str, dict[Labels, float]]

    def value(self, name: str, **labels: str) -> float:
        """Sum over all samples that have these labels; 0 without one."""
        wanted = set(labels.items())
        return sum(value for found, value in self.samples.get(name, {}).items() if wanted <= set(found))

    def labels(self, name: str, label: str) -> list[str]:
        """Values of a label, in alphabetical order."""
        return sorted({value for found in self.samples.get(name, {}) for key, value in found if key == label})


class ModelDelta(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of one model. Times in seconds; None where nothing happened."""

    model: str
    ready: bool
    running: int
    waiting: int
    kv_tokens: int
    kv_share: float | None
    """Used part of the tokens whose keys and values fit into memory."""
    requests_per_s: float
    refused_per_s: float
    preempted_per_s: float
    prefill_tokens_per_s: float
    generated_tokens_per_s: float
    prefix_hits: float | None
    """Part of the prompt tokens that were found in the prefix cache."""
    sequences_a_step: float | None
    tokens_a_step: float | None
    step_s: float | None
    step_p95_s: float | None
    queue_p50_s: float | None
    queue_p95_s: float | None
    first_token_p50_s: float | None
    first_token_p95_s: float | None
    between_tokens_p50_s: float | None
    between_tokens_p95_s: float | None


class TenantDelta(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of one tenant, over all models; tokens count when a request ends."""

    tenant: str
    requests_per_s: float
    prompt_tokens_per_s: float
    completion_tokens_per_s: float


class MetricsDelta(msgspec.Struct, frozen=True):
    models: list[ModelDelta]
    tenants: list[TenantDelta]
    """Busiest first."""


def parse_scrape(text: str, *, at: float) -> Scrape:
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return Scrape(at, dict(samples))


def read_between(before: Scrape, after: Scrape) -> MetricsDelta:
    span = Between(before, after)
    models = [_model(span, model) for model in after.labels("hostelry_engine_ready", "model")]
    tenants = [_tenant(span, tenant) for tenant in after.labels("hostelry_requests_total", "tenant")]
    return MetricsDelta(
        models, sorted(tenants, key=lambda each: -each.completion_tokens_per_s - each.prompt_tokens_per_s)
    )


class Between:
    """Differences of two scrapes. Counters that restarted count from 0."""

    def __init__(self, before: Scrape, after: Scrape) -> None:
        self._before = before
        self.after = after
        self._seconds = max(1e-9, after.at - before.at)

    def gained(self, name: str, **labels: str) -> float:
        now, then = self.after.value(name, **labels), self._before.value(name, **labels)
        return now - then if now >= then else now

    def rate(self, name: str, **labels: str) -> float:
        return self.gained(name, **labels) / self._seconds

    def ratio(self, name: str, of: str, **labels: str) -> float | None:
        count = self.gained(of, **labels)
        return self.gained(name, **labels) / count if count else None

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """Quantile of a histogram, linear within its bucket, as Prometheus' `histogram_quantile` computes it."""
        bounds = sorted({float(bound) for bound in self.after.labels(f"{name}_bucket", "le")})
        counts = [self.gained(f"{name}_bucket", **labels, le=_bound(bound)) for bound in bounds]
        if not counts or not counts[-1]:
            return None
        rank, below, start = share * counts[-1], 0.0, 0.0
        for bound, count in zip(bounds, counts, strict=True):
            if count >= rank and bound != float("inf"):
                return start + (bound - start) * (rank - below) / (count - below) if count > below else bound
            below, start = count, bound if bound != float("inf") else start
        return start


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(bound)


def _model(span: Between, model: str) -> ModelDelta:
    kv_tokens = span.after.value("hostelry_engine_kv_tokens", model=model)
    kv_capacity = span.after.value("hostelry_engine_kv_tokens_capacity", model=model)
    return ModelDelta(
        model=model,
        ready=span.after.value("hostelry_engine_ready", model=model) > 0,
        running=int(span.after.value("hostelry_engine_running", model=model)),
        waiting=int(span.after.value("hostelry_engine_waiting", model=model)),
        kv_tokens=int(kv_tokens),
        kv_share=kv_tokens / kv_capacity if kv_capacity else None,
        requests_per_s=span.rate("hostelry_requests_total", model=model),
        refused_per_s=span.rate("hostelry_refused_total", model=model),
        preempted_per_s=span.rate("hostelry_engine_preempted_total", model=model),
        prefill_tokens_per_s=span.rate("hostelry_engine_prefill_tokens_total", model=model),
        generated_tokens_per_s=span.rate("hostelry_engine_generated_tokens_total", model=model),
        prefix_hits=_prefix_hits(span, model),
        sequences_a_step=span.ratio("hostelry_engine_batched_sequences_total", _STEPS, model=model),
        tokens_a_step=span.ratio("hostelry_engine_step_tokens_sum", "hostelry_engine_step_tokens_count", model=model),
        step_s=span.ratio("hostelry_engine_step_seconds_total", _STEPS, model=model),
        step_p95_s=span.quantile(_STEP, 0.95, model=model),
        queue_p50_s=span.quantile(_QUEUE, 0.5, model=model),
        queue_p95_s=span.quantile(_QUEUE, 0.95, model=model),
        first_token_p50_s=span.quantile(_FIRST, 0.5, model=model),
        first_token_p95_s=span.quantile(_FIRST, 0.95, model=model),
        between_tokens_p50_s=span.quantile(_BETWEEN, 0.5, model=model),
        between_tokens_p95_s=span.quantile(_BETWEEN, 0.95, model=model),
    )


def _prefix_hits(span: Between, model: str) -> float | None:
    found = span.gained("hostelry_engine_cached_tokens_total", model=model)
    computed = span.gained("hostelry_engine_prefill_tokens_total", model=model)
    return found / (found + computed) if found + computed else None


def _tenant(span: Between, tenant: str) -> TenantDelta:
    return TenantDelta(
        tenant=tenant,
        requests_per_s=span.rate("hostelry_requests_total", tenant=tenant),
        prompt_tokens_per_s=span.rate("hostelry_prompt_tokens_total", tenant=tenant),
        completion_tokens_per_s=span.rate("hostelry_completion_tokens_total", tenant=tenant),
    )
