"""Command `hostelry tenants`."""

from __future__ import annotations

import click

from gateway.commands.admin import AdminClient, admin_options, fields_of

_SET = "A field and its value; may be repeated; null removes a limit."
_settings = click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help=_SET)


@click.group("tenants")
def command() -> None:
    """Create, change and list tenants of a running server.

    \b
    hostelry tenants create acme --set limits.requests_per_minute=60 --set limits.cost_per_month=20
    hostelry tenants update acme --set max_output_tokens=500 --set limits.tokens_per_minute=null
    """


@command.command("list")
@admin_options
def list_tenants(client: AdminClient) -> None:
    """Every tenant, in the order of creation."""
    client.show_all(client.all("/tenants"), ("id", "name", "organisation", "disabled", "models", "limits", "origin"))


@command.command("show")
@click.argument("tenant")
@admin_options
def show(client: AdminClient, tenant: str) -> None:
    """One tenant, by name or id."""
    client.show(client.call("GET", f"/tenants/{tenant}"))


@command.command("create")
@click.argument("name")
@_settings
@admin_options
def create(client: AdminClient, name: str, settings: tuple[str, ...]) -> None:
    """A new tenant; its keys come with `hostelry keys create`."""
    client.show(client.call("POST", "/tenants", {"name": name} | fields_of(settings)))


@command.command("update")
@click.argument("tenant")
@_settings
@admin_options
def update(client: AdminClient, tenant: str, settings: tuple[str, ...]) -> None:
    """Change some fields, such as limits, models or disabled."""
    client.show(client.call("PATCH", f"/tenants/{tenant}", fields_of(settings)))


@command.command("delete")
@click.argument("tenant")
@admin_options
def delete(client: AdminClient, tenant: str) -> None:
    """Revoke all keys of a tenant and remove it from the list; its usage remains."""
    client.show(client.call("DELETE", f"/tenants/{tenant}"))
