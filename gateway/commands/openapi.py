"""Command `hostelry openapi`."""

from __future__ import annotations

import click


@click.command("openapi")
def command() -> None:
    """Print the OpenAPI 3.1 document that the server serves at /openapi.json."""
    from gateway.api.openapi.document import render_document

    click.echo(render_document(), nl=False)
