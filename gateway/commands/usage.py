"""Command `hostelry usage`."""

from __future__ import annotations

from datetime import datetime

import click

from gateway.commands.admin import AdminClient, admin_options

_GROUPS = ("tenant", "key", "model", "hour")
_COLUMNS = {"tenant": "tenant_name", "key": "key", "model": "model", "hour": "hour"}
_SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost")


@click.group("usage")
def command() -> None:
    """Show what tenants used.

    \b
    hostelry usage sum --by tenant --by model --since 2026-11-01
    hostelry usage list --tenant acme --json
    """


_tenant = click.option("--tenant", default=None, help="Only this tenant, by name or id.")
_since = click.option("--since", type=click.DateTime(), default=None, help="Start, in local time.")
_until = click.option("--until", type=click.DateTime(), default=None, help="End, in local time, exclusive.")


@command.command("sum")
@click.option("--by", "groups", multiple=True, type=click.Choice(_GROUPS), default=("tenant",), show_default=True)
@_tenant
@_since
@_until
@admin_options
def show_sums(
    client: AdminClient, groups: tuple[str, ...], tenant: str | None, since: datetime | None, until: datetime | None
) -> None:
    """Sums by tenant, key, model or hour."""
    answer = client.call(
        "GET", "/usage", group_by=",".join(groups), tenant=tenant, start=_seconds(since), end=_seconds(until)
    )
    client.show_all(iter(answer["data"]), (*(_COLUMNS[group] for group in groups), *_SUMS))


@command.command("list")
@_tenant
@_since
@_until
@admin_options
def list_requests(client: AdminClient, tenant: str | None, since: datetime | None, until: datetime | None) -> None:
    """Single requests, in the order in which they ended."""
    entries = client.all("/usage/requests", tenant=tenant, start=_seconds(since), end=_seconds(until))
    client.show_all(entries, ("ended_at", "id", "tenant_id", "key_id", "model", "state", *_SUMS[1:]))


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
