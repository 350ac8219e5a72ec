"""Command `hostelry keys`."""

from __future__ import annotations

from datetime import datetime

import click

from gateway.commands.admin import AdminClient, Json, admin_options, fields_of
from gateway.tenants.policy import SCOPES


@click.group("keys")
def command() -> None:
    """Create, rotate and revoke keys of a running server.

    \b
    hostelry keys create acme --name ci --expires 2027-01-31
    hostelry keys rotate key_0123 --overlap 3600
    """


@command.command("list")
@click.option("--tenant", default=None, help="Only this tenant, by name or id.")
@admin_options
def list_keys(client: AdminClient, tenant: str | None) -> None:
    """Every key without its secret, revoked ones among them."""
    columns = ("id", "tenant", "name", "hint", "scopes", "expires_at", "revoked_at", "last_used_at")
    client.show_all(client.all("/keys", tenant=tenant), columns)


@command.command("create")
@click.argument("tenant")
@click.option("--name", default="key", show_default=True, help="For people.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Default: inference.")
@click.option("--expires", type=click.DateTime(), default=None, help="In local time; default: never.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Limits of this key alone.")
@admin_options
def create(
    client: AdminClient,
    tenant: str,
    name: str,
    scopes: tuple[str, ...],
    expires: datetime | None,
    settings: tuple[str, ...],
) -> None:
    """A new key of a tenant. This is the one time that it is shown."""
    body: Json = {"tenant": tenant, "name": name, "scopes": scopes or ("inference",)} | fields_of(settings)
    if expires is not None:
        body["expires_at"] = expires.timestamp()
    client.show(client.call("POST", "/keys", body))


@command.command("rotate")
@click.argument("key_id")
@click.option("--overlap", default=0.0, type=click.FloatRange(0), help="Seconds that the old key stays valid.")
@admin_options
def rotate(client: AdminClient, key_id: str, overlap: float) -> None:
    """A new key like an old one, which ends after the overlap."""
    client.show(client.call("POST", f"/keys/{key_id}/rotate", {"overlap_s": overlap}))


@command.command("revoke")
@click.argument("key_id")
@admin_options
def revoke(client: AdminClient, key_id: str) -> None:
    """End a key, everywhere within a second."""
    client.show(client.call("DELETE", f"/keys/{key_id}"))
