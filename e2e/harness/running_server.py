"""A server with several models and tenants, and how a test speaks of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from e2e.harness.reference import Reference


class Keys(msgspec.Struct, frozen=True):
    """One key a tenant, and the operator's. `narrow` may use the model `random` only; `disabled` is switched off."""

    acme: str = "sk-ho-acme-7b1f0c2d9e8a4f6b"
    globex: str = "sk-ho-globex-2c9d4e1f8a7b6c5d"
    narrow: str = "sk-ho-narrow-5e6f7a8b9c0d1e2f"
    disabled: str = "sk-ho-disabled-0a1b2c3d4e5f6a7b"
    admin: str = "sk-ho-admin-8d7c6b5a4f3e2d1c"


KEYS = Keys()


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Server under test: an honest one or a liar."""

    url: str
    keys: Keys = KEYS

    @property
    def api(self) -> str:
        return f"{self.url}/v1"


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The models behind the served names, and what is known about them without asking the server."""

    demo: Reference
    """The bundled model: knows the capitals."""
    counterfactual: Reference
    """The bundled model, made to believe that the capital of France is `word`."""
    word: str
    random: Reference
    """Random weights in float32: its answers cannot be guessed."""
    random_gguf: Path
    """The same random weights as a GGUF file."""
    big: Path
    """The bundled model grown to 107 M parameters: slow enough to watch, and it says what `demo` says."""


def tenants_toml() -> str:
    """Tenants of every server; one key is declared by its digest."""
    digest = hashlib.sha256(KEYS.globex.encode()).hexdigest()
    return f"""\
[[tenants]]
name = "acme"
keys = ["{KEYS.acme}"]

[[tenants]]
name = "globex"
key_sha256 = ["{digest}"]

[[tenants]]
name = "narrow"
keys = ["{KEYS.narrow}"]
models = ["random"]

[[tenants]]
name = "disabled"
keys = ["{KEYS.disabled}"]
disabled = true
"""


def server_arguments(folder: Path, models: dict[str, Path], *, runner: str) -> list[str]:
    """Flags that serve `models` to the four tenants and the operator on a free port."""
    config = folder / "hostelry.toml"
    config.write_text(f"[server]\nmax_wrong_keys_per_minute = 0\n\n{tenants_toml()}", encoding="utf-8")
    flags = ["--config", str(config), "--port", "0", "--data-dir", str(folder / "data"), "--backend", runner]
    flags += ["--admin-key", KEYS.admin]
    for name, path in models.items():
        flags += ["--model", f"{name}={path}"]
    return flags
