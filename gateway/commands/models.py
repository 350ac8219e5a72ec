"""Command `hostelry models`: inspects model files, and lists the models of a server."""

from __future__ import annotations

from pathlib import Path

import click
import httpx
import msgspec

from backends.choice import choose_runner
from backends.errors import BackendError, UnsupportedModel
from backends.registry import create_runner
from gateway.commands.quantize import WorkProgress
from gateway.models.inspection import Inspection, inspect_model
from gateway.process.data_dir import default_data_dir, stored_key

_TEMPLATE_CHARACTERS = 60


@click.group("models")
def command() -> None:
    """Inspect model files, and list the models of a server."""


@command.command("inspect")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--checksum/--no-checksum", default=True, help="SHA-256 of every file with weights; reads all of each file."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def inspect(context: click.Context, path: Path, checksum: bool, as_json: bool) -> None:
    """Show what the model at PATH (GGUF file or Hugging Face directory) is, and if this build can serve it.

    Exit status: 0 it can be served, 1 it cannot.
    """
    try:
        with WorkProgress("reading") as bar:
            found = inspect_model(path, checksum=checksum, progress=bar.update, choose=runner_for)
    except BackendError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        values = msgspec.to_builtins(found, enc_hook=str) | {"bits_per_weight": round(found.bits_per_weight, 3)}
        click.echo(msgspec.json.encode(values))
    else:
        _print(found)
    context.exit(1 if found.error else 0)


@command.command("list")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Server to connect to.")
@click.option("--api-key", default=None, help="API key; default: the key that the first start stored.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=None, help="Data directory that holds the stored key."
)
def list_models(url: str, api_key: str | None, data_dir: Path | None) -> None:
    """List the models of a running server that the key may use."""
    from gateway.commands.chat import error_text

    key = api_key or stored_key(data_dir or default_data_dir())
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.get(f"{url.rstrip('/')}/v1/models", headers=headers, timeout=10)
    except httpx.HTTPError as error:
        raise click.ClickException(f"no answer from {url}: {error}; is `hostelry serve` running there?") from None
    if response.status_code != 200:
        raise click.ClickException(error_text(response))
    for model in response.json()["data"]:
        click.echo(model["id"])


def runner_for(formats: set[str]) -> str:
    """Runner that `auto` selects here. Raises `UnsupportedModel` if it lacks one of the formats."""
    name = choose_runner().runner
    missing = sorted(formats - set(create_runner(name).capabilities().formats))
    if missing:
        raise UnsupportedModel(f"runner {name} has no {', '.join(missing)}; `hostelry quantize` can convert it")
    return name


def _print(found: Inspection) -> None:
    for label, value in _lines(found):
        click.echo(f"{label:<14} {value}")


def _lines(found: Inspection) -> list[tuple[str, str]]:
    lines = [("path", str(found.path)), ("kind", found.kind), ("architecture", found.architecture or "unknown")]
    if found.num_layers is not None:
        lines.append(("layers", f"{found.num_layers}, hidden size {found.hidden_size}"))
        lines.append(("context", f"{found.context_length} tokens"))
        ends = ", ".join(map(str, found.eos_token_ids)) or "none"
        lines.append(("vocabulary", f"{found.vocab_size} tokens, ends with {ends}"))
    bits = f"{found.bits_per_weight:.2f} bits a weight"
    lines.append(("parameters", f"{found.parameters / 1e6:.1f} M in {found.num_bytes / 1e6:.1f} MB, {bits}"))
    lines += [("tensors", f"{part.tensors} × {part.format}, {part.num_bytes / 1e6:.1f} MB") for part in found.formats]
    lines.append(("chat template", _template(found)))
    lines += [("needs", feature) for feature in found.features]
    lines += [("sha256", f"{file.sha256} {file.name}") for file in found.files]
    lines += [("note", note) for note in found.notes]
    lines.append(("served", f"no: {found.error}" if found.error else f"yes, by runner {found.runner}"))
    return lines


def _template(found: Inspection) -> str:
    template = found.chat_template
    if template is None:
        return "none: the model supports completions, not chat"
    line = template.first_line
    shown = line if len(line) <= _TEMPLATE_CHARACTERS else line[:_TEMPLATE_CHARACTERS] + "…"
    return f"{template.characters} characters, sha256 {template.sha256[:16]}, begins {shown}"
