"""Command `hostelry doctor`: checks of this machine and installation. Each returns a finding; nothing is changed."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Literal

import click
import msgspec

from backends.choice import choose_runner
from backends.errors import BackendError
from backends.kernels.library import LEVEL_VARIABLE, KernelsUnavailable, load_library
from backends.registry import describe_device, missing_packages, runner_names
from gateway.config import load_config
from gateway.errors import ConfigError
from gateway.models.declared_adapters import check_adapters
from gateway.process.data_dir import default_data_dir
from gateway.process.terminal import machine_facts

Level = Literal["OK", "WARN", "FAIL"]
_MIN_FILES = 4096
_MIN_DISK_GIB = 1.0


class Finding(msgspec.Struct, frozen=True):
    """One line of the report; `fix` is a command or sentence, empty when there is nothing to fix."""

    check: str
    level: Level
    detail: str
    fix: str = ""


def examine(*, data_dir: Path, host: str, port: int, config: Path | None) -> Iterator[Finding]:
    """Yield the findings one by one, so that a slow check never hides the earlier ones."""
    yield Finding("machine", "OK", machine_facts())
    yield _python()
    yield _packages()
    yield from (_runner(name) for name in runner_names() if name != "fake")
    yield check_onnxruntime()
    yield _chosen_runner()
    yield _kernels()
    yield _demo_model()
    yield _data_dir(data_dir)
    yield _disk(data_dir)
    yield _open_files()
    yield _port(host, port)
    if config is not None:
        yield _config(config)


def exit_code(findings: list[Finding]) -> int:
    """Exit code: 0 all well, 1 warnings, 2 at least one failure."""
    levels = {finding.level for finding in findings}
    return 2 if "FAIL" in levels else 1 if "WARN" in levels else 0


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "OK", version)


def _packages() -> Finding:
    """Check that the plain names `backends` and `adapters` import our packages."""
    parents = {name: _parent(name) for name in ("gateway", "adapters", "backends")}
    if len(set(parents.values())) > 1:
        found = ", ".join(f"{name} from {parent}" for name, parent in parents.items())
        return Finding("packages", "FAIL", found, "uninstall the foreign package, then reinstall hostelry")
    return Finding("packages", "OK", f"gateway, adapters and backends load from {parents['gateway']}")


def _parent(name: str) -> str:
    spec = importlib.util.find_spec(name)
    return str(Path(spec.origin).parents[1]) if spec and spec.origin else "nowhere"


def _runner(name: str) -> Finding:
    absent, extra = missing_packages(name)
    if absent:
        wanted = " and ".join(absent)
        return Finding(f"runner {name}", "OK", f'not installed; for it: pip install "hostelry[{extra}]" ({wanted})')
    return Finding(f"runner {name}", "OK", "its packages are installed")


def check_onnxruntime() -> Finding:
    """Check for one build only: builds for devices share one import name, so each overwrites files of those before."""
    builds = sorted(set(packages_distributions().get("onnxruntime", ())))
    if len(builds) > 1:
        detail = f"{', '.join(builds)} overwrite each other's files"
        extras = "onnx, onnx-gpu, onnx-webgpu and onnx-directml"
        fix = f'pip uninstall {" ".join(builds)}, then pip install "hostelry[EXTRA]" with one of {extras}'
        return Finding("onnxruntime", "WARN", detail, fix)
    return Finding("onnxruntime", "OK", f"{builds[0]} {version(builds[0])}" if builds else "not installed")


def _chosen_runner() -> Finding:
    try:
        choice = choose_runner()
        device = describe_device(choice.runner)
    except BackendError as error:
        return Finding("backend auto", "FAIL", str(error), 'pip install "hostelry[onnx]"')
    detail = f"chooses {choice.runner}: {choice.reason}; device {device}"
    if choice.fallback:
        return Finding("backend auto", "WARN", detail, choice.fallback)
    return Finding("backend auto", "OK", detail)


def _kernels() -> Finding:
    try:
        library = load_library()
    except KernelsUnavailable as error:
        detail = "attention and quantized weights run on operators of onnxruntime and torch, slower on the CPU"
        return Finding("CPU kernels", "WARN", detail, str(error))
    if library.level != library.best_level and not os.environ.get(LEVEL_VARIABLE):
        detail = (
            f"built for another CPU: they use {library.level}, and this one has {library.best_level}, which is faster"
        )
        return Finding("CPU kernels", "WARN", detail, "install hostelry again on this machine")
    return Finding("CPU kernels", "OK", f"built; this CPU uses {library.level}")


def _demo_model() -> Finding:
    from gateway.demo import model_path

    path = model_path()
    if not path.is_file():
        return Finding("demo model", "FAIL", f"{path} is missing", "reinstall hostelry")
    return Finding("demo model", "OK", f"{path.name}, {path.stat().st_size / 1e6:.1f} MB")


def _data_dir(path: Path) -> Finding:
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding(
            "data directory", "FAIL", f"{existing} is not writable", "choose another directory with --data-dir"
        )
    if path.exists() and path.stat().st_mode & 0o077:
        return Finding("data directory", "WARN", f"{path} is readable by others", f"chmod 700 {path}")
    return Finding("data directory", "OK", str(path))


def _disk(path: Path) -> Finding:
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if free < _MIN_DISK_GIB:
        return Finding("disk", "WARN", f"{free:.1f} GiB free", "free disk space: models and usage records need it")
    return Finding("disk", "OK", f"{free:.1f} GiB free")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _MIN_FILES:
        return Finding(
            "open files", "WARN", f"limit {soft}, one per client connection", f"ulimit -n {min(hard, 65536)}"
        )
    return Finding("open files", "OK", f"limit {soft}")


def _port(host: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding("port", "WARN", f"{host}:{port}: {error.strerror}", f"use --port {port + 1}")
    return Finding("port", "OK", f"{host}:{port} is free")


def _config(path: Path) -> Finding:
    try:
        check_adapters(load_config(path).adapters, bases=None)
    except ConfigError as error:
        return Finding("config", "FAIL", str(error), f"edit {path}")
    return Finding("config", "OK", str(path))


_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


@click.command("doctor")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default=None)
@click.option("--config", type=click.Path(path_type=Path), default=None, help="Also check this configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(
    context: click.Context, host: str, port: int, data_dir: Path | None, config: Path | None, as_json: bool
) -> None:
    """Check this machine, and show how to fix what is wrong.

    Exit status: 0 all well, 1 warnings, 2 something must be fixed before `hostelry serve` can work.
    """
    findings: list[Finding] = []
    for finding in examine(data_dir=data_dir or default_data_dir(), host=host, port=port, config=config):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(msgspec.json.encode(findings))
    context.exit(exit_code(findings))


def _print(finding: Finding) -> None:
    level = click.style(f"{finding.level:<5}", fg=_COLOURS[finding.level])
    fix = f"  → {finding.fix}" if finding.fix else ""
    click.echo(f"{level} {finding.check:<15} {finding.detail}{fix}")
