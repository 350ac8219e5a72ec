"""Shared parts of the measurements: models in every format, servers with tenants, and the amount of load."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from backends.quantize import quantize_file
from backends.testing.models import H_MODEL, HALF_B_MODEL, ModelSizes, make_random_model
from gateway.bench.load import Target
from gateway.bench.own_server import own_server

THREADS = 2

Settings = Mapping[str, object]
"""Keys of a table of `hostelry.toml`."""


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the model, and how long and how often everything is measured."""

    sizes: ModelSizes
    rounds: int
    tokens: int
    window_s: float
    long_prompt: int


FULL = Effort(sizes=HALF_B_MODEL, rounds=5, tokens=32, window_s=8.0, long_prompt=640)
QUICK = Effort(sizes=H_MODEL, rounds=1, tokens=32, window_s=2.0, long_prompt=160)
"""Shows that everything runs; its numbers mean nothing."""


class Scene:
    """A random model, quantized when a format is first wanted."""

    def __init__(self, folder: Path, effort: Effort) -> None:
        self.effort = effort
        self._folder = folder
        # Stored as F16 to save space; the engine computes with float32 weights.
        self._source = make_random_model(folder / "model", sizes=effort.sizes, dtype="F16")

    def path(self, form: str) -> Path:
        if form == "F32":
            return self._source
        path = self._folder / f"{form}.gguf"
        if not path.exists():
            quantize_file(self._source, path, format=form, pure=True)
        return path

    @contextmanager
    def hall(self, models: Mapping[str, Settings], tenants: Mapping[str, Settings]) -> Generator[Hall]:
        """Run a server for these models and tenants; each tenant has one key."""
        config = self._folder / "hostelry.toml"
        tables = [_table("models", {"name": name, "threads": THREADS, **model}) for name, model in models.items()]
        tables += [_table("tenants", {"name": name, "keys": [_key(name)], **given}) for name, given in tenants.items()]
        config.write_text("\n".join(tables), encoding="utf-8")
        with own_server(["--config", str(config)]) as server:
            yield Hall(url=server.target.url)


class Hall(msgspec.Struct, frozen=True, kw_only=True):
    """A running server."""

    url: str

    def target(self, model: str, tenant: str) -> Target:
        return Target(label=tenant, url=self.url, model=model, key=_key(tenant))


def _key(tenant: str) -> str:
    return f"sk-ho-benchmark-{tenant}-0123456789"


def _table(kind: str, settings: Settings) -> str:
    lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in settings.items()]
    return "\n".join([f"[[{kind}]]", *lines, ""])
