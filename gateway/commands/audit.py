"""Command `hostelry audit`."""

from __future__ import annotations

import click

from gateway.commands.admin import AdminClient, admin_options


@click.group("audit")
def command() -> None:
    """Show the audit log, and verify that it is complete."""


@command.command("list")
@admin_options
def list_entries(client: AdminClient) -> None:
    """Every action, oldest first."""
    entries = client.all("/audit", cursor="number")
    client.show_all(entries, ("number", "at", "actor", "action", "target", "request_id", "detail"))


@command.command("verify")
@admin_options
def verify(client: AdminClient) -> None:
    """Check that no entry was altered or removed. Exit status: 0 whole, 1 not."""
    verdict = client.call("GET", "/audit/verify")
    client.show(verdict)
    if not verdict["whole"]:
        raise SystemExit(1)
