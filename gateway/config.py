"""Configuration as frozen structs: defaults, then the TOML file, then flags and their environment variables.

An unknown or wrong key ends start-up; the message names file, line and the nearest key that exists.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from adapters.ref import AdapterRef
from gateway.engine.config import EngineConfig
from gateway.errors import ConfigError
from gateway.tenants.auth.wrong_keys import DEFAULT_PER_MINUTE
from gateway.tenants.limits.prices import FREE, Price
from gateway.tenants.policy import Name
from gateway.tenants.records import TenantConfig

_log = logging.getLogger("gateway.config")
_FORMER_KEYS = {("models", "prefill_stretch"): "max_decode_slowdown"}
"""(table, former key) → the key that replaced it."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[server]`: where to listen and how much to accept."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**30)] = 8 * 1024 * 1024
    allowed_hosts: tuple[Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9._:-]{1,255})$")], ...] = ()
    """Names by which clients call this server, in addition to its address and those of this machine; `*` is any."""
    max_wrong_keys_per_minute: Annotated[int, Meta(ge=0, le=10**9)] = DEFAULT_PER_MINUTE
    """Limit per address; 0 is no limit."""
    drain_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0


class ModelConfig(EngineConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[models]]`: one model and the engine that runs it. `path` is a file, a directory or a hub id."""

    path: str
    name: Name | None = None
    backend: str = "auto"
    quantize: Annotated[str, Meta(pattern=r"^[A-Z0-9_]{2,16}$")] | None = None
    """Quantize to this format at load; the result is kept in the data directory and used again."""
    price: Price = FREE
    """Price of its tokens for tenants."""

    @property
    def engine(self) -> EngineConfig:
        """Settings for its engine."""
        fields = EngineConfig.__struct_fields__
        return EngineConfig(**{name: getattr(self, name) for name in fields})


class AdapterConfig(AdapterRef, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[adapters]]`: a LoRA adapter of a served model. `path` is a PEFT directory, relative to the configuration."""

    name: Name
    tenants: tuple[Name, ...] = ()
    """Tenants that may use it; empty is all. For others, the adapter does not exist."""


class UsageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[usage]`: retention of usage records."""

    keep_days: Annotated[int, Meta(ge=0, le=36500)] = 400
    """Days that single requests are kept, 0 is forever; sums by the hour always are."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `hostelry.toml`."""

    server: ServerConfig = ServerConfig()
    models: tuple[ModelConfig, ...] = ()
    adapters: tuple[AdapterConfig, ...] = ()
    tenants: tuple[TenantConfig, ...] = ()
    usage: UsageConfig = UsageConfig()
    data_dir: str | None = None
    database: str | None = None
    """URL of the store of tenants and usage; None is SQLite in the data directory."""


def load_config(path: Path) -> Config:
    """Read and check a TOML file. Raises `ConfigError` with all unknown keys at once, or the first wrong value."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    _rename_former_keys(path, data)
    unknown = [_describe(path, text, keys, fields) for keys, fields in _unknown_keys(data, Config, ())]
    if unknown:
        raise ConfigError("\n".join(unknown))
    try:
        return _beside(path, msgspec.convert(data, Config))
    except msgspec.ValidationError as error:
        raise ConfigError(_wrong_value(path, text, str(error))) from None


def _rename_former_keys(path: Path, data: dict[str, Any]) -> None:  # Any: TOML values before they are checked
    """Give keys with a former name their new one, and log that once. Raises `ConfigError` where both are set."""
    for (table, former), name in _FORMER_KEYS.items():
        entries = data.get(table, [])
        tables = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        found = [entry for entry in tables if former in entry]
        if any(name in entry for entry in found):
            raise ConfigError(f"{path}: {table}.{former} is the former name of {name}; keep only {name}")
        for entry in found:
            entry[name] = entry.pop(former)
        if found:
            _log.warning("%s: %s.%s is now called %s; the former name still works", path, table, former, name)


def _beside(path: Path, config: Config) -> Config:
    """Make adapter paths relative to the directory of the file, wherever the server is started."""
    folder = path.absolute().parent
    adapters = tuple(msgspec.structs.replace(each, path=str(folder / each.path)) for each in config.adapters)
    return msgspec.structs.replace(config, adapters=adapters)


def _unknown_keys(
    data: Mapping[str, Any],  # Any: TOML values before they are checked
    struct: type[msgspec.Struct],
    prefix: tuple[str, ...],
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield (key path, keys that exist there) for each key without a field."""
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in data.items():
        if key not in fields:
            yield (*prefix, key), tuple(fields)
            continue
        nested = _struct_in(fields[key])
        if nested is None:
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from _unknown_keys(item, nested, (*prefix, key))


def _struct_in(annotation: object) -> type[msgspec.Struct] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return candidate
    return None


def _describe(path: Path, text: str, keys: tuple[str, ...], fields: tuple[str, ...]) -> str:
    near = get_close_matches(keys[-1], fields, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known keys here: {', '.join(fields)}"
    return f"{path}:{_line_of(text, keys)} {'.'.join(keys)}: unknown key, {hint}"


def _wrong_value(path: Path, text: str, message: str) -> str:
    """msgspec ends a message with "- at `$.server.port`"; turn that into a line number."""
    problem, _, where = message.rpartition(" - at `$.")
    keys = tuple(part.split("[")[0] for part in where.rstrip("`").split("."))
    if not problem:
        return f"{path}: {message}"
    return f"{path}:{_line_of(text, keys)} {'.'.join(keys)}: {problem}"


def _line_of(text: str, keys: tuple[str, ...]) -> int:
    """First line that mentions the key below its table header, else the header, else 1. TOML keeps no positions."""
    table, key, found = ".".join(keys[:-1]), keys[-1], 1
    inside = table == ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            header = stripped.strip("[] ").split("#")[0].strip("[] ")
            inside = header == table
            if header == ".".join(keys):
                return number
            found = number if inside else found
        elif inside and stripped.split("=")[0].strip().strip('"') == key:
            return number
    return found
