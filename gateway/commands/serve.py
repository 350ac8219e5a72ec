"""Command `hostelry serve`: flags over file over defaults, then the server."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from backends.registry import runner_names
from gateway.config import Config, ModelConfig, load_config
from gateway.demo import MODEL_NAME, model_path
from gateway.errors import ConfigError
from gateway.models.declared_adapters import check_adapters
from gateway.models.declared_adapters import with_flags as adapters_with_flags
from gateway.process.data_dir import ADMIN_KEY, default_data_dir, first_key
from gateway.process.gc_tuning import gc_paused
from gateway.tenants.auth.directory import new_key
from gateway.tenants.records import TenantConfig

_LEAST_ADMIN_KEY = 16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command("serve")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file; flags override it.")
@click.option("--model", "models", multiple=True, metavar="[NAME=]PATH_OR_HUB_ID", help="May be given several times.")
@click.option("--adapter", "adapters", multiple=True, metavar="BASE:NAME=PATH", help="LoRA adapter of a served model.")
@click.option("--backend", type=click.Choice(["auto", *runner_names()]), default=None, help="Engine; default: auto.")
@click.option("--device", default=None, help="cpu, cuda, webgpu, coreml, dml, metal …; default: auto.")
@click.option("--quantize", metavar="FORMAT", default=None, help="Quantize at load, such as Q4_K_M, and keep the file.")
@click.option(
    "--max-batch", type=click.IntRange(1, 1024), default=None, help="Maximum number of sequences in one step."
)
@click.option("--max-context", type=click.IntRange(16), default=None, help="Maximum number of tokens of one sequence.")
@click.option("--scheduling", type=click.Choice(["fair", "fcfs"]), default=None, help="Admission order; default: fair.")
@click.option("--prefix-cache/--no-prefix-cache", default=None, help="Reuse KV of shared prefixes; default: on.")
@click.option(
    "--threads", type=click.IntRange(0, 1024), default=None, help="Compute threads; 0: one per physical core."
)
@click.option("--exact/--fast", default=None, help="fp32 activations: slower, more exact.")
@click.option("--host", default=None, help="Default 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="Default 8000; 0 picks a free one.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=None, help="Directory for keys, usage and the store."
)
@click.option(
    "--admin-key",
    default=None,
    help="Key for /admin; prefer HOSTELRY_SERVE_ADMIN_KEY. Default: created once.",
)
@click.option("--api-key", default=None, help="Key of tenant `default`; prefer HOSTELRY_SERVE_API_KEY.")
def command(
    config_file: Path | None,
    models: tuple[str, ...],
    adapters: tuple[str, ...],
    backend: str | None,
    device: str | None,
    quantize: str | None,
    max_batch: int | None,
    max_context: int | None,
    scheduling: str | None,
    prefix_cache: bool | None,
    threads: int | None,
    exact: bool | None,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    admin_key: str | None,
    api_key: str | None,
) -> None:
    """Serve models to OpenAI clients. Without --model: the bundled demo model.

    \b
    hostelry serve
    hostelry serve --model ./Llama-3.2-1B-Instruct
    hostelry serve --model chat=./qwen3-0.6b-q8_0.gguf --port 9000
    hostelry serve --model chat=./qwen3-0.6b-q8_0.gguf --adapter chat:law=./law
    """
    engine = {
        "backend": backend,
        "device": device,
        "quantize": quantize.upper() if quantize else None,
        "max_batch": max_batch,
        "max_context": max_context,
        "scheduling": scheduling,
        "prefix_cache": prefix_cache,
        "threads": threads,
        "exact": exact,
    }
    try:
        config = load_config(config_file) if config_file else Config()
        config = with_flags(config, models=models, adapters=adapters, engine=engine, host=host, port=port)
        directory = data_dir or (Path(config.data_dir) if config.data_dir else default_data_dir())
        config, key_hint = with_keys(config, api_key, directory)
        admin_key = operator_key(admin_key, directory)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None

    with gc_paused():
        from gateway.server import run

    raise SystemExit(
        run(
            config,
            source=str(config_file) if config_file else None,
            data_dir=directory,
            key_hint=key_hint,
            admin_key=admin_key,
        )
    )


def with_flags(
    config: Config,
    *,
    models: tuple[str, ...],
    adapters: tuple[str, ...] = (),
    engine: dict[str, str | int | bool | None],
    host: str | None,
    port: int | None,
) -> Config:
    """Apply the flags to the file's configuration: `--model` replaces its models, `--adapter` adds to its adapters,
    engine flags apply to every model.
    """
    chosen = tuple(_named(text) for text in models) or config.models
    chosen = chosen or (ModelConfig(path=str(model_path()), name=MODEL_NAME),)
    given = {name: value for name, value in engine.items() if value is not None}
    chosen = tuple(_complete(model, given) for model in chosen)
    names = [model.name for model in chosen]
    if len(set(names)) < len(names):
        raise ConfigError(f"two models have the same name ({', '.join(map(str, names))}); give each its own: NAME=PATH")
    served = adapters_with_flags(config.adapters, adapters)
    check_adapters(served, bases=[str(name) for name in names])
    server = config.server
    if host is not None:
        server = msgspec.structs.replace(server, host=host)
    if port is not None:
        server = msgspec.structs.replace(server, port=port)
    return msgspec.structs.replace(config, models=chosen, adapters=served, server=server)


def with_keys(config: Config, api_key: str | None, data_dir: Path) -> tuple[Config, str]:
    """Make sure that there is a key, and return the one to show in examples.

    Raises `ConfigError` for a non-loopback address without declared keys.
    """
    tenants = config.tenants
    if api_key is not None:
        if len(api_key) < 8:
            raise ConfigError("--api-key: use at least 8 characters, or leave it out to have a strong key created")
        return _with_default_tenant(config, api_key), "$HOSTELRY_API_KEY"
    if any(tenant.keys or tenant.key_sha256 for tenant in tenants):
        return config, "$HOSTELRY_API_KEY"
    if config.server.host not in _LOOPBACK:
        raise ConfigError(
            f"{config.server.host} can be reached from other machines and no key is declared; "
            "give --api-key, declare [[tenants]] with keys, or use --host 127.0.0.1"
        )
    key, created = first_key(data_dir, make=new_key)
    if created:
        click.echo(f"created key {key} for tenant default (kept in {data_dir}, shown once)", err=True)
        return _with_default_tenant(config, key), key
    return _with_default_tenant(config, key), f"$(cat {data_dir}/default.key)"


def operator_key(given: str | None, data_dir: Path) -> str:
    """The key for `/admin`: the one that was given, else the one in the data directory, made at the first start."""
    if given is None:
        return first_key(data_dir, ADMIN_KEY, make=new_key)[0]
    if len(given) < _LEAST_ADMIN_KEY:
        raise ConfigError(
            f"--admin-key: at least {_LEAST_ADMIN_KEY} characters are needed; leave it out to have a strong key created"
        )
    return given


def _with_default_tenant(config: Config, key: str) -> Config:
    return msgspec.structs.replace(config, tenants=(*config.tenants, TenantConfig(name="default", keys=(key,))))


def _complete(model: ModelConfig, engine: dict[str, str | int | bool]) -> ModelConfig:
    return msgspec.structs.replace(model, name=model.name or model_name(model.path), **engine)


def _named(text: str) -> ModelConfig:
    """Model configuration of `NAME=PATH`, or of a path or hub id alone, whose last part becomes the name."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name or not path:
        return ModelConfig(path=text, name=model_name(text))
    try:
        return msgspec.convert({"path": path, "name": name}, ModelConfig)
    except msgspec.ValidationError:
        raise ConfigError(f"--model {text}: {name!r} cannot be a name; use letters, digits, and . _ - /") from None


def model_name(reference: str) -> str:
    """Name under which a path or hub id is served when none is given."""
    last = reference.rstrip("/").rsplit("/", 1)[-1].split(":")[0]
    return last.removesuffix(".gguf") or reference
