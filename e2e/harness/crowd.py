"""Servers for many tenants at once: the same models with and without what the batching suite measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from e2e.harness.running_server import Known, tenants_toml

GUESTS = tuple(f"sk-ho-guest-{number:03}-4f6b8d0e2c1a" for number in range(64))
"""A key each of 64 more tenants."""
FEW = 4
TIGHT_MB, TIGHT_CONTEXT = 4, 512
"""Memory for keys and values: a thousand tokens of `random`, of which each takes 4 KiB."""
NUM_WAIT = 4

Models = dict[str, tuple[Path, dict[str, object]]]
"""Name → file and settings."""

_ROOM: dict[str, object] = {"kv_cache_mb": 1024, "max_context": 1024}


def crowd_arguments(folder: Path, known: Known, *, runner: str) -> list[str]:
    """Flags of `serve` for 64 tenants. Three models are the large one under other settings:

    single     one sequence at a time
    few        four at once, fair
    few-fcfs   four at once, first come first served
    """
    models: Models = {
        "big": (known.big, _ROOM),
        "random": (known.random.path, {}),
        "single": (known.big, {**_ROOM, "max_batch": 1}),
        "few": (known.big, {**_ROOM, "max_batch": FEW}),
        "few-fcfs": (known.big, {**_ROOM, "max_batch": FEW, "scheduling": "fcfs"}),
    }
    guests = [f'[[tenants]]\nname = "guest-{number}"\nkeys = ["{key}"]\n' for number, key in enumerate(GUESTS)]
    return _arguments(folder, models, runner=runner, more=guests)


def shortage_arguments(folder: Path, known: Known, *, runner: str) -> list[str]:
    """Flags of `serve` for the random model, twice:

    tight      hardly any memory for keys and values
    queue      two at once, four may wait
    """
    models: Models = {
        "tight": (known.random.path, {"kv_cache_mb": TIGHT_MB, "max_context": TIGHT_CONTEXT}),
        "queue": (known.random.path, {"max_batch": 2, "max_waiting": NUM_WAIT}),
    }
    return _arguments(folder, models, runner=runner)


def _arguments(folder: Path, models: Models, *, runner: str, more: Sequence[str] = ()) -> list[str]:
    tables = [_model_toml(name, path, settings, runner) for name, (path, settings) in models.items()]
    config = folder / "hostelry.toml"
    config.write_text("\n".join([*tables, tenants_toml(), *more]), encoding="utf-8")
    return ["--config", str(config), "--port", "0", "--data-dir", str(folder / "data")]


def _model_toml(name: str, path: Path, settings: dict[str, object], runner: str) -> str:
    lines = [f'name = "{name}"', f'path = "{path}"', f'backend = "{runner}"']
    lines += [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in settings.items()]
    return "\n".join(["[[models]]", *lines, ""])
