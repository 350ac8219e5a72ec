"""Adapters declared in the file or by flags: the checks that need no loaded model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from gateway.config import AdapterConfig
from gateway.errors import ConfigError

_MAX_NAME = 128
"""Characters of `base:name`, under which usage is recorded."""


def with_flags(declared: Sequence[AdapterConfig], flags: Sequence[str]) -> tuple[AdapterConfig, ...]:
    """Adapters of the file and of `--adapter BASE:NAME=PATH`; a flag replaces an entry of the same base and name."""
    given = [_of_flag(text) for text in flags]
    names = {(adapter.base, adapter.name) for adapter in given}
    return (*(adapter for adapter in declared if (adapter.base, adapter.name) not in names), *given)


def check_adapters(adapters: Sequence[AdapterConfig], *, bases: Collection[str] | None) -> None:
    """Raises `ConfigError` with all problems. `bases` are the models that will be served, if they are known already."""
    problems = [*_doubled(adapters), *(text for adapter in adapters for text in _problems_of(adapter, bases))]
    if problems:
        raise ConfigError("\n".join(problems))


def _of_flag(text: str) -> AdapterConfig:
    whole, _, path = text.partition("=")
    base, _, name = whole.rpartition(":")
    try:
        if not base or not path:
            raise msgspec.ValidationError
        return msgspec.convert({"base": base, "name": name, "path": str(Path(path).absolute())}, AdapterConfig)
    except msgspec.ValidationError:
        raise ConfigError(
            f"--adapter {text}: write BASE:NAME=PATH, such as chat:law=./law; a name has letters, digits, and . _ - /"
        ) from None


def _doubled(adapters: Sequence[AdapterConfig]) -> Iterator[str]:
    for (base, name), count in Counter((adapter.base, adapter.name) for adapter in adapters).items():
        if count > 1:
            yield f"adapters: {count} of base {base} are called {name}; give each its own name"


def _problems_of(adapter: AdapterConfig, bases: Collection[str] | None) -> Iterator[str]:
    if bases is not None and adapter.base not in bases:
        near = get_close_matches(adapter.base, bases, n=1)
        hint = f"did you mean {near[0]}?" if near else f"served are {', '.join(bases)}"
        yield f"adapters: {adapter.name}: base {adapter.base} is not served here; {hint}"
    if len(f"{adapter.base}:{adapter.name}") > _MAX_NAME:
        yield f"adapters: {adapter.base}:{adapter.name} is longer than {_MAX_NAME} characters; shorten its name"
    if not Path(adapter.path).is_dir():
        yield (
            f"adapters: {adapter.name}: path {adapter.path} is not a directory; "
            "set `path` to the directory that contains adapter_config.json"
        )
