"""Runners by name, listed without importing them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from backends import registry
from backends.registry import RunnerUnavailable, backend_names, create_backend, create_runner, runner_names
from backends.testing.fake import FakeRunner


def test_listing_imports_no_engine() -> None:
    """Names cost neither onnxruntime nor torch nor the runner's own module."""
    code = (
        "import sys; from backends.registry import runner_names; names = runner_names(); "
        "print(*names); print(*sorted(set(sys.modules) & {'onnxruntime', 'onnx', 'torch', 'backends.testing.fake'}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout

    names, imported = output.split("\n")[:2]
    assert {"onnx", "fake"} <= set(names.split())
    assert imported == ""


def test_known_without_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain checkout has no entry points and still knows its own."""
    monkeypatch.setattr(registry, "_installed", lambda group: {})

    assert runner_names() == ("fake", "mlx", "onnx", "torch")
    assert isinstance(create_runner("fake"), FakeRunner)


def test_declared_entry_points_exist() -> None:
    """Entry points that an installation will announce exist, under the names that a checkout knows."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    declared = project["project"]["entry-points"][registry.RUNNERS_GROUP]

    assert set(declared) == set(registry.BUILT_IN_RUNNERS)
    for name, target in declared.items():
        assert callable(EntryPoint(name, target, registry.RUNNERS_GROUP).load())


def test_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is the command to run."""
    monkeypatch.setattr(registry, "find_spec", lambda package: None)

    for name in ("onnx", "torch", "mlx"):
        with pytest.raises(RunnerUnavailable, match=rf'pip install "hostelry\[{name}\]"'):
            create_runner(name)


def test_a_device_reaches_only_runners_that_have_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device is passed only to runners that have a choice; the others refuse one."""
    with pytest.raises(RunnerUnavailable, match="runner fake has no choice of devices"):
        create_runner("fake", device="cuda")
    asked: list[str] = []

    def create(*, threads: int, exact: bool, device: str = "auto") -> FakeRunner:
        asked.append(device)
        return FakeRunner()

    monkeypatch.setattr(registry, "_runner_factory", lambda name: create)

    create_runner("any", device="cuda")
    create_runner("any")

    assert asked == ["cuda", "auto"]


def test_unknown_name_lists_the_known_ones() -> None:
    """A typo is answered with what there is."""
    with pytest.raises(RunnerUnavailable, match="no runner 'onxx'; known are fake, mlx, onnx"):
        create_runner("onxx")


def test_strangers_runner_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of another package is listed and made."""
    entry = EntryPoint("stranger", "backends.testing.fake:create_fake_runner", registry.RUNNERS_GROUP)
    monkeypatch.setattr(registry, "_installed", lambda group: {"stranger": entry})

    assert "stranger" in runner_names()
    assert isinstance(create_runner("stranger", threads=2, exact=True), FakeRunner)


def test_stranger_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the entry point and what is missing."""
    entry = EntryPoint("broken", "no_such_module:create", registry.RUNNERS_GROUP)
    monkeypatch.setattr(registry, "_installed", lambda group: {"broken": entry})

    with pytest.raises(RunnerUnavailable, match=r"broken is installed but cannot be imported: .*no_such_module"):
        create_runner("broken")


def test_strangers_backend_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Request-level backends come from their own group, with their own options."""
    entry = EntryPoint("remote", "builtins:dict", registry.BACKENDS_GROUP)
    monkeypatch.setattr(registry, "_installed", lambda group: {"remote": entry})

    assert backend_names() == ("remote",)
    assert create_backend("remote", url="x") == {"url": "x"}  # type: ignore[comparison-overlap]  # dict stands in
    with pytest.raises(RunnerUnavailable, match="no backend 'other'; known are remote"):
        create_backend("other")
