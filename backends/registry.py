"""Registry of runners and backends by name. Listing them imports none.

A package registers its own through the entry-point groups `hostelry.runners` and `hostelry.backends`. Those of this
tree are known without an installation, so that a plain checkout works.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from inspect import signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from backends.errors import BackendError

if TYPE_CHECKING:
    from backends.api import Backend, Runner  # with numpy, which listing does not need

RUNNERS_GROUP = "hostelry.runners"
BACKENDS_GROUP = "hostelry.backends"
AUTO = "auto"


class RunnerUnavailable(BackendError):
    """No runner or backend of this name can be created here; the message says what would help."""


class BuiltIn(msgspec.Struct, frozen=True):
    """A runner of this tree. `requires` are the packages that its extra `extra` installs."""

    target: str
    requires: tuple[str, ...] = ()
    extra: str = ""
    device: str = ""
    """Function that describes, in a sentence, the runner's default device and the reason."""


BUILT_IN_RUNNERS = MappingProxyType(
    {
        "onnx": BuiltIn(
            "backends.onnx:create_runner",
            requires=("onnxruntime", "onnx"),
            extra="onnx",
            device="backends.onnx:describe_device",
        ),
        "torch": BuiltIn(
            "backends.torch:create_runner", requires=("torch",), extra="torch", device="backends.torch:describe_device"
        ),
        "mlx": BuiltIn(
            "backends.mlx:create_runner", requires=("mlx",), extra="mlx", device="backends.mlx:describe_device"
        ),
        "fake": BuiltIn("backends.testing.fake:create_fake_runner"),
    }
)


def runner_names() -> tuple[str, ...]:
    """Names of all runners, sorted, also of those whose packages are missing."""
    return tuple(sorted({*BUILT_IN_RUNNERS, *_installed(RUNNERS_GROUP)}))


def backend_names() -> tuple[str, ...]:
    """All request-level backends that installed packages offer, sorted."""
    return tuple(sorted(_installed(BACKENDS_GROUP)))


def create_runner(name: str, *, threads: int = 0, exact: bool = False, device: str = AUTO) -> Runner:
    """Create a runner; `threads=0` leaves their number to it.

    `exact` computes quantized weights with float32 activations. `device` is one that the runner documents; runners
    with only one need no such parameter. Raises `RunnerUnavailable`.
    """
    factory = _runner_factory(name)
    options = {} if device == AUTO else {"device": device}
    if options and "device" not in signature(factory).parameters:
        raise RunnerUnavailable(f"runner {name} has no choice of devices; leave device at {AUTO}")
    runner: Runner = factory(threads=threads, exact=exact, **options)
    return runner


def create_backend(name: str, **options: object) -> Backend:
    """A new request-level backend; `options` are what that backend documents. Raises `RunnerUnavailable`."""
    installed = _installed(BACKENDS_GROUP)
    if name not in installed:
        raise RunnerUnavailable(_unknown("backend", name, tuple(installed)))
    backend: Backend = _load(installed[name])(**options)
    return backend


def _runner_factory(name: str) -> Callable[..., Any]:  # Any: the result of a third-party factory is checked by use
    installed = _installed(RUNNERS_GROUP)
    if name not in BUILT_IN_RUNNERS and name in installed:
        return _load(installed[name])
    if name not in BUILT_IN_RUNNERS:
        raise RunnerUnavailable(_unknown("runner", name, runner_names()))
    built_in = BUILT_IN_RUNNERS[name]
    absent = _absent_packages(built_in)
    if absent:
        wanted = " and ".join(absent)
        raise RunnerUnavailable(f'runner {name} needs {wanted}: pip install "hostelry[{built_in.extra}]"')
    return _imported(built_in.target)


def missing_packages(name: str) -> tuple[tuple[str, ...], str]:
    """(packages that a runner of this tree lacks here, the extra that installs them); empty for others."""
    built_in = BUILT_IN_RUNNERS.get(name)
    return (_absent_packages(built_in), built_in.extra) if built_in else ((), "")


def describe_device(name: str) -> str:
    """Describe the default device of an installed runner of this tree; empty for others. Imports its library."""
    built_in = BUILT_IN_RUNNERS.get(name)
    return str(_imported(built_in.device)()) if built_in and built_in.device else ""


def _imported(target: str) -> Callable[..., Any]:  # Any: see above
    module, _, attribute = target.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found


def _absent_packages(built_in: BuiltIn) -> tuple[str, ...]:
    return tuple(package for package in built_in.requires if find_spec(package) is None)


def _load(entry: EntryPoint) -> Callable[..., Any]:  # Any: see above
    try:
        factory: Callable[..., Any] = entry.load()
    except (ImportError, AttributeError) as error:
        raise RunnerUnavailable(f"{entry.name} is installed but cannot be imported: {error}") from error
    return factory


def _unknown(kind: str, name: str, known: tuple[str, ...]) -> str:
    return f"there is no {kind} {name!r}; known are {', '.join(known) or 'none'}"


@cache
def _installed(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}
