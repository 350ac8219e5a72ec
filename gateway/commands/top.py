"""Command `hostelry top`."""

from __future__ import annotations

import time
from pathlib import Path

import click
import httpx
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from gateway.commands.admin import stored_admin_key
from gateway.commands.metrics_delta import MetricsDelta, ModelDelta, Scrape, TenantDelta, parse_scrape, read_between

_TENANTS = 12
_REQUEST_COLUMNS = (
    "model", "running", "waiting", "req/s", "refused /s", "queue ms", "TTFT ms", "between tokens ms",
)  # fmt: skip
_ENGINE_COLUMNS = (
    "model", "prefill tok/s", "tok/s", "batch", "tok a step", "step ms", "KV", "prefix hits", "preempted /s",
)  # fmt: skip
_TENANT_COLUMNS = ("tenant", "req/s", "prompt tok/s", "completion tok/s")


@click.command("top")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Server to connect to.")
@click.option("--admin-key", default=None, help="Only needed from another machine.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=None, help="Data directory that holds the stored key."
)
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(1), default=None, help="Number of updates; default: until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per update.")
def command(
    url: str, admin_key: str | None, data_dir: Path | None, interval: float, count: int | None, as_json: bool
) -> None:
    """Show what models and tenants do, live."""
    headers = {"Authorization": f"Bearer {key}"} if (key := stored_admin_key(admin_key, data_dir)) else {}
    with httpx.Client(base_url=url, headers=headers, timeout=10) as client:
        before = _scrape(client, url)
        if as_json:
            for _ in range(count or 10**9):
                before, reading = _next(client, url, before, interval)
                click.echo(msgspec.json.encode(reading))
            return
        with Live(console=Console(), auto_refresh=False) as live:
            for _ in range(count or 10**9):
                before, reading = _next(client, url, before, interval)
                live.update(_shown(reading), refresh=True)


def _next(client: httpx.Client, url: str, before: Scrape, interval: float) -> tuple[Scrape, MetricsDelta]:
    time.sleep(interval)
    after = _scrape(client, url)
    return after, read_between(before, after)


def _scrape(client: httpx.Client, url: str) -> Scrape:
    try:
        response = client.get("/metrics")
    except httpx.HTTPError as error:
        raise click.ClickException(f"{url} cannot be reached ({error}); is `hostelry serve` running there?") from None
    if response.status_code != 200:
        raise click.ClickException(
            f"{url}/metrics answered {response.status_code}; from another machine it needs --admin-key"
        )
    return parse_scrape(response.text, at=time.monotonic())


def _shown(reading: MetricsDelta) -> Group:
    requests, engines, tenants = (
        Table(*columns, box=SIMPLE_HEAD, padding=0) for columns in (_REQUEST_COLUMNS, _ENGINE_COLUMNS, _TENANT_COLUMNS)
    )
    requests.caption = "pairs: p50 / p95; for steps: mean / p95"
    for model in reading.models:
        requests.add_row(*_request_cells(model))
        engines.add_row(*_engine_cells(model))
    for tenant in reading.tenants[:_TENANTS]:
        tenants.add_row(*_tenant_cells(tenant))
    return Group(requests, engines, tenants)


def _request_cells(model: ModelDelta) -> list[str]:
    return [
        model.model if model.ready else f"{model.model} (not ready)",
        str(model.running),
        str(model.waiting),
        f"{model.requests_per_s:.1f}",
        f"{model.refused_per_s:.1f}",
        f"{_milliseconds(model.queue_p50_s)} / {_milliseconds(model.queue_p95_s)}",
        f"{_milliseconds(model.first_token_p50_s)} / {_milliseconds(model.first_token_p95_s)}",
        f"{_milliseconds(model.between_tokens_p50_s)} / {_milliseconds(model.between_tokens_p95_s)}",
    ]


def _engine_cells(model: ModelDelta) -> list[str]:
    return [
        model.model,
        f"{model.prefill_tokens_per_s:.0f}",
        f"{model.generated_tokens_per_s:.0f}",
        _number(model.sequences_a_step),
        _number(model.tokens_a_step),
        f"{_milliseconds(model.step_s)} / {_milliseconds(model.step_p95_s)}",
        str(model.kv_tokens) if model.kv_share is None else _percent(model.kv_share),
        _percent(model.prefix_hits),
        f"{model.preempted_per_s:.1f}",
    ]


def _tenant_cells(tenant: TenantDelta) -> list[str]:
    rates = (tenant.requests_per_s, tenant.prompt_tokens_per_s, tenant.completion_tokens_per_s)
    return [tenant.tenant, *(f"{rate:.1f}" for rate in rates)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{1000 * seconds:.0f}" if seconds >= 0.1 else f"{1000 * seconds:.1f}"
