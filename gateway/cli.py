"""Command line `hostelry`. Each command has its own file and is imported only when it is called."""

from __future__ import annotations

import importlib

import click

from gateway import __version__

_VERBS = {
    "serve": "Serve models to OpenAI clients.",
    "quickstart": "Serve the demo model and ask it a question through the official client.",
    "chat": "Chat with a running server in the terminal.",
    "doctor": "Check this machine, and show how to fix what is wrong.",
    "config": "Check a configuration file.",
    "quantize": "Quantize a model to a smaller GGUF file.",
    "runner": "Check a runner against the contract; list installed runners.",
    "models": "Inspect model files, and list the models of a server.",
    "tenants": "Create, change and list tenants of a running server.",
    "keys": "Create, rotate and revoke keys.",
    "usage": "Report usage by tenant, key and model.",
    "audit": "Show the audit log, and verify that it is complete.",
    "db": "Back up and restore the store.",
    "top": "Show live metrics of a running server.",
    "bench": "Measure speed and quality as a client sees them, optionally next to another server.",
    "openapi": "Print the OpenAPI document.",
}


class _LazyGroup(click.Group):
    """Lists commands without importing them, so that every command starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command = importlib.import_module(f"gateway.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HOSTELRY"})
@click.version_option(__version__, prog_name="hostelry")
def main() -> None:
    """An OpenAI-compatible gateway for many tenants, with its own inference engines."""


if __name__ == "__main__":
    main()
