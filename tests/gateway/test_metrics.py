"""Output of `/metrics`."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.api import Health
from backends.errors import DeadlineExceeded, Overloaded, RequestError, TenantQueueFull, WaitTooLong
from backends.generation import Delta, Done, Started, Usage
from backends.testing.backend import FakeBackend
from gateway.api.problems import reason_of
from gateway.batching.messages import EngineStats, Output
from gateway.engine.client_side.step_histograms import StepHistograms
from gateway.engine.messages import Ready, Stepped
from gateway.errors import RateLimited
from gateway.metrics import MAX_TENANT_LABELS, Metrics
from gateway.routing import Models, ServedModel
from tests.gateway.clock import Clock

STATS = EngineStats(
    running=1, waiting=2, steps=3, batched_sequences=4, prefill_tokens=5, generated_tokens=6, kv_tokens=7, step_time_s=8
)


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_usage_is_the_backends_word_once_it_is_given() -> None:
    """Deltas are counted until `Done` says what was computed; choices of a prompt bill it once."""
    meter = Metrics().begin(model="m", tenant="t", arrived_s=0.0)
    for choice in (0, 1):
        meter.see(choice, Started(10))
        meter.see(choice, Delta("a", (1, 2)))
    before = meter.usage(choices_per_prompt=2)

    meter.see(0, Done("stop", Usage(prompt_tokens=10, completion_tokens=3, cached_tokens=4)))
    after = meter.usage(choices_per_prompt=2)

    assert (before.prompt_tokens, before.completion_tokens) == (10, 4)
    assert (after.prompt_tokens, after.completion_tokens, after.cached_tokens) == (10, 5, 4)
    assert meter.usage(choices_per_prompt=1).prompt_tokens == 20


def test_latency_is_between_tokens_of_one_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four choices that step together every 20 ms are no faster than one."""
    metrics, clock = Metrics(), Clock(monkeypatch)
    meter = metrics.begin(model="m", tenant="t", arrived_s=clock.now)

    for _ in range(6):
        clock.now += 0.02
        for choice in range(4):
            meter.see(choice, Delta("a", (1,)))

    samples = _samples(metrics)
    labels = (("model", "m"),)
    assert samples["hostelry_inter_token_latency_seconds_count", labels] == 4 * 5
    assert samples["hostelry_inter_token_latency_seconds_sum", labels] == pytest.approx(4 * 5 * 0.02)
    assert samples["hostelry_inter_token_latency_seconds_bucket", (("le", "0.01"), *labels)] == 0
    assert samples["hostelry_time_to_first_token_seconds_count", labels] == 1


def test_times_begin_at_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that arrived before the meter was made has waited already."""
    metrics, clock = Metrics(), Clock(monkeypatch)
    meter = metrics.begin(model="m", tenant="t", arrived_s=clock.now - 0.25)

    clock.now += 0.5
    meter.see(0, Delta("a", (1,)))
    clock.now += 1.0
    meter.end("completed", choices_per_prompt=1)

    samples = _samples(metrics)
    assert samples["hostelry_time_to_first_token_seconds_sum", (("model", "m"),)] == 0.75
    assert samples["hostelry_request_duration_seconds_sum", (("model", "m"),)] == 1.75


def test_a_request_is_counted_once() -> None:
    """Ending twice changes nothing, and the gauge comes back to zero."""
    metrics = Metrics()
    meter = metrics.begin(model="m", tenant="t", arrived_s=0.0)
    meter.see(0, Started(3))

    meter.end("cancelled", choices_per_prompt=1)
    meter.end("completed", choices_per_prompt=1)

    samples = _samples(metrics)
    labels = (("model", "m"), ("tenant", "t"))
    assert samples["hostelry_requests_total", (labels[0], ("outcome", "cancelled"), labels[1])] == 1
    assert samples["hostelry_prompt_tokens_total", labels] == 3
    assert samples["hostelry_requests_in_flight", (("model", "m"),)] == 0
    assert not [name for name, found in samples if ("outcome", "completed") in found]


def test_tenant_labels_are_capped() -> None:
    """Thousands of tenants do not make thousands of series."""
    metrics = Metrics()
    for number in range(MAX_TENANT_LABELS + 50):
        metrics.begin(model="m", tenant=f"t{number}", arrived_s=0.0).end("completed", choices_per_prompt=1)

    samples = _samples(metrics)

    tenants = {dict(labels)["tenant"] for name, labels in samples if name == "hostelry_requests_total"}
    assert len(tenants) == MAX_TENANT_LABELS + 1
    other = (("model", "m"), ("outcome", "completed"), ("tenant", "other"))
    assert samples["hostelry_requests_total", other] == 50


def test_engine_numbers_are_read_at_each_scrape() -> None:
    """Every model shows whether it is ready; those with an engine show its numbers."""
    backend = FakeBackend(health=Health(ready=False))
    metrics = Metrics()
    metrics.watch(
        Models(
            [
                ServedModel(name="local", backend=backend, stats=lambda: STATS),
                ServedModel(name="loading", backend=backend, stats=lambda: None),
                ServedModel(name="remote", backend=FakeBackend()),
            ]
        )
    )

    samples = _samples(metrics)

    expected = {"running": 1, "waiting": 2, "kv_tokens": 7}
    expected |= {"steps_total": 3, "batched_sequences_total": 4, "prefill_tokens_total": 5, "generated_tokens_total": 6}
    for name, value in expected.items():
        assert samples[f"hostelry_engine_{name}", (("model", "local"),)] == value
        assert (f"hostelry_engine_{name}", (("model", "loading"),)) not in samples
    assert samples["hostelry_engine_ready", (("model", "loading"),)] == 0
    assert samples["hostelry_engine_ready", (("model", "remote"),)] == 1


def test_steps_become_histograms() -> None:
    """Differences of consecutive numbers, however many steps lie in between; the queue time of first outputs."""
    step_histograms = StepHistograms()
    first = EngineStats(2, 0, 1, 2, 30, 2, 32, 0.25)
    step_histograms.note(Stepped((Output(1, (5,), queued_s=0.02), Output(2, (5,), queued_s=3.0)), first), None)
    step_histograms.note(Stepped((Output(1, (6,)),), first), first)
    step_histograms.note(Stepped((), EngineStats(2, 0, 3, 6, 30, 6, 36, 0.75)), first)
    metrics = Metrics()
    metrics.watch(Models([ServedModel(name="m", backend=FakeBackend(), step_histograms=step_histograms)]))

    samples = _samples(metrics)

    def buckets(name: str, bound: str) -> float:
        return samples[f"hostelry_{name}_bucket", (("le", bound), ("model", "m"))]

    labels = (("model", "m"),)
    assert [buckets("engine_step_time_seconds", bound) for bound in ("0.1", "0.25", "+Inf")] == [0, 3, 3]
    assert samples["hostelry_engine_step_time_seconds_sum", labels] == 0.75
    assert [buckets("engine_step_sequences", bound) for bound in ("1.0", "2.0")] == [0, 3]
    assert [buckets("engine_step_tokens", bound) for bound in ("1.0", "2.0", "16.0", "32.0")] == [0, 2, 2, 3]
    assert [buckets("queue_time_seconds", bound) for bound in ("0.01", "0.025", "5.0")] == [0, 1, 2]
    assert samples["hostelry_queue_time_seconds_count", labels] == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Overloaded("full"), "engine_overloaded"),
        (TenantQueueFull("full"), "tenant_queue_full"),
        (WaitTooLong("slow"), "wait_too_long"),
        (RateLimited("many", retry_after_s=1), "rate_limit_exceeded"),
        (DeadlineExceeded("late"), "deadline_exceeded"),
        (RequestError("no"), "invalid_request"),
        (ValueError("what"), "unexpected"),
    ],
)
def test_refusals_are_counted_by_reason(error: Exception, reason: str) -> None:
    """One of few words, so that an operator sees whose limit it was."""
    metrics = Metrics()
    meter = metrics.begin(model="m", tenant="t", arrived_s=0.0)
    meter.refuse(reason_of(error))
    meter.end("refused", choices_per_prompt=1)

    assert _samples(metrics)["hostelry_refused_total", (("model", "m"), ("reason", reason))] == 1


def test_what_fits_is_shown() -> None:
    """The sizes that the engine reported when it became ready are shown."""
    ready = Ready(
        vocab_size=1, max_context=1, max_sequences=1, weight_bytes=10, kv_bytes=20, kv_tokens=30, device="cpu"
    )
    metrics = Metrics()
    metrics.watch(Models([ServedModel(name="m", backend=FakeBackend(), facts=lambda: ready)]))

    samples = _samples(metrics)

    names = ("weight_bytes", "kv_bytes", "kv_tokens_capacity")
    assert [samples[f"hostelry_engine_{name}", (("model", "m"),)] for name in names] == [10, 20, 30]


def test_registries_are_apart() -> None:
    """Two applications in one process do not share numbers."""
    first, second = Metrics(), Metrics()
    first.begin(model="m", tenant="t", arrived_s=0.0).end("completed", choices_per_prompt=1)

    assert not [name for name, _ in _samples(second) if name == "hostelry_requests_total"]
