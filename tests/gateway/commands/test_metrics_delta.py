"""Differences between two scrapes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.commands.metrics_delta import MetricsDelta, parse_scrape, read_between


class ServedApp:
    """The metrics that are read, by hand."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        Gauge("hostelry_engine_ready", "", ["model"], registry=registry).labels("demo").set(1)
        Gauge("hostelry_engine_running", "", ["model"], registry=registry).labels("demo").set(3)
        self.steps = Counter("hostelry_engine_steps", "", ["model"], registry=registry).labels("demo")
        self.batched = Counter("hostelry_engine_batched_sequences", "", ["model"], registry=registry).labels("demo")
        Gauge("hostelry_engine_kv_tokens", "", ["model"], registry=registry).labels("demo").set(300)
        Gauge("hostelry_engine_kv_tokens_capacity", "", ["model"], registry=registry).labels("demo").set(1200)
        self.prefilled = Counter("hostelry_engine_prefill_tokens", "", ["model"], registry=registry).labels("demo")
        self.cached = Counter("hostelry_engine_cached_tokens", "", ["model"], registry=registry).labels("demo")
        self.preempted = Counter("hostelry_engine_preempted", "", ["model"], registry=registry).labels("demo")
        self.refused = Counter("hostelry_refused", "", ["model", "reason"], registry=registry)
        self.queue = Histogram(
            "hostelry_queue_time_seconds", "", ["model"], registry=registry, buckets=(0.1, 0.2, 0.4)
        ).labels("demo")
        self.step_tokens = Histogram(
            "hostelry_engine_step_tokens", "", ["model"], registry=registry, buckets=(1, 2, 4)
        ).labels("demo")
        self.requests = Counter("hostelry_requests", "", ["model", "tenant", "outcome"], registry=registry)
        self.tokens = Counter("hostelry_completion_tokens", "", ["model", "tenant"], registry=registry)
        self.first = Histogram(
            "hostelry_time_to_first_token_seconds", "", ["model"], registry=registry, buckets=(0.1, 0.2, 0.4)
        ).labels("demo")

    def scrape(self) -> str:
        return generate_latest(self.registry).decode()


def reading_of(before: str, after: str) -> MetricsDelta:
    return read_between(parse_scrape(before, at=10.0), parse_scrape(after, at=12.0))


def test_rates_and_quantiles() -> None:
    """Only of what is new, over the two seconds in between."""
    served_app = ServedApp()
    served_app.steps.inc(100)
    served_app.first.observe(0.39)
    before = served_app.scrape()
    served_app.steps.inc(4)
    served_app.batched.inc(10)
    for tenant, tokens in (("a", 6), ("b", 40)):
        served_app.requests.labels("demo", tenant, "completed").inc(3)
        served_app.tokens.labels("demo", tenant).inc(tokens)
    for _ in range(4):
        served_app.first.observe(0.15)
    reading = reading_of(before, served_app.scrape())

    (model,) = reading.models
    assert (model.model, model.ready, model.running) == ("demo", True, 3)
    assert (model.requests_per_s, model.sequences_a_step) == (3.0, 2.5)
    assert model.first_token_p50_s == 0.15000000000000002
    assert model.between_tokens_p50_s is None
    assert [(each.tenant, each.completion_tokens_per_s) for each in reading.tenants] == [("b", 20.0), ("a", 3.0)]


def test_the_engine_in_numbers() -> None:
    """Share of memory, prefix hits, refusals of any reason, preemptions, time in the queue and tokens a step."""
    served_app = ServedApp()
    served_app.prefilled.inc(1000)
    before = served_app.scrape()
    served_app.prefilled.inc(30)
    served_app.cached.inc(90)
    served_app.preempted.inc(4)
    for reason in ("wait_too_long", "tenant_queue_full"):
        served_app.refused.labels("demo", reason).inc(3)
    served_app.queue.observe(0.15)
    for tokens in (2, 4):
        served_app.step_tokens.observe(tokens)
    (model,) = reading_of(before, served_app.scrape()).models

    assert (model.kv_tokens, model.kv_share, model.prefix_hits) == (300, 0.25, 0.75)
    assert (model.refused_per_s, model.preempted_per_s) == (3.0, 2.0)
    assert model.queue_p50_s == 0.15000000000000002
    assert model.tokens_a_step == 3.0


def test_nothing_happened() -> None:
    """No number is made up."""
    served_app = ServedApp()
    (model,) = reading_of(served_app.scrape(), served_app.scrape()).models

    assert (model.sequences_a_step, model.first_token_p95_s, model.requests_per_s) == (None, None, 0.0)
    assert (model.prefix_hits, model.queue_p95_s, model.tokens_a_step, model.refused_per_s) == (None, None, None, 0.0)


def test_a_server_that_started_anew() -> None:
    """Counters of a restarted server begin at 0; no difference is negative."""
    old, new = ServedApp(), ServedApp()
    old.steps.inc(50)
    new.steps.inc(8)
    new.batched.inc(8)

    assert reading_of(old.scrape(), new.scrape()).models[0].sequences_a_step == 1.0


def test_beyond_the_last_bucket() -> None:
    """The last bound is the best that is known."""
    served_app = ServedApp()
    before = served_app.scrape()
    served_app.first.observe(9.0)

    assert reading_of(before, served_app.scrape()).models[0].first_token_p50_s == 0.4
