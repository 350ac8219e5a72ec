from __future__ import annotations

from pathlib import Path

import pytest

from backends.choice import RunnerChoice
from backends.registry import missing_packages
from gateway.commands import doctor
from gateway.commands.doctor import Finding, Level, examine, exit_code
from gateway.process.listener import bind


def findings(tmp_path: Path, *, port: int = 0, config: Path | None = None) -> dict[str, Finding]:
    found = examine(data_dir=tmp_path / "data", host="127.0.0.1", port=port, config=config)
    return {finding.check: finding for finding in found}


@pytest.mark.parametrize(("levels", "status"), [(("OK",), 0), (("OK", "WARN"), 1), (("WARN", "FAIL"), 2)])
def test_exit_code_tells_the_worst(levels: tuple[Level, ...], status: int) -> None:
    """Scripts can rely on 0, 1 and 2."""
    assert exit_code([Finding("x", level, "") for level in levels]) == status


def test_what_is_wrong_comes_with_a_fix(tmp_path: Path) -> None:
    """No finding leaves a person alone."""
    found = findings(tmp_path)

    assert all(finding.fix for finding in found.values() if finding.level != "OK")


def test_a_taken_port_is_found(tmp_path: Path) -> None:
    """The check binds, it does not guess."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]

        assert findings(tmp_path, port=port)["port"].level == "WARN"


def test_a_data_directory_open_to_others_is_found(tmp_path: Path) -> None:
    """Keys live there."""
    (tmp_path / "data").mkdir(mode=0o755)

    assert findings(tmp_path)["data directory"].fix.startswith("chmod 700")


def test_a_broken_config_fails(tmp_path: Path) -> None:
    """The file is checked by the same code that serves it."""
    config = tmp_path / "hostelry.toml"
    config.write_text("nonsense = 1")

    assert findings(tmp_path, config=config)["config"].level == "FAIL"


@pytest.mark.parametrize("runner", ["onnx", "torch", "mlx"])
def test_the_chosen_engine_comes_with_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str) -> None:
    """The report names the runner that `auto` stands for, its device, and the reason."""
    if missing_packages(runner)[0]:
        pytest.skip(f"runner {runner} is not installed")
    monkeypatch.setattr(doctor, "choose_runner", lambda: RunnerChoice(runner=runner, reason="by design"))

    found = findings(tmp_path)["backend auto"]

    assert found.detail.startswith(f"chooses {runner}: by design; device ")
    assert found.level == "OK"


def test_missing_kernels_are_a_warning_with_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All works without them, slower."""
    monkeypatch.setenv("HOSTELRY_KERNELS", "0")

    found = findings(tmp_path)["CPU kernels"]

    assert found.level == "WARN"
    assert "HOSTELRY_KERNELS=0" in found.fix


@pytest.mark.parametrize(
    ("packages", "level"),
    [
        ((), "OK"),
        (("onnxruntime-gpu",), "OK"),
        (("onnxruntime", "onnxruntime-gpu"), "WARN"),
        (("onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu"), "WARN"),
    ],
)
def test_builds_of_onnxruntime_that_overwrite_each_other_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...], level: str
) -> None:
    """The extras of the onnx runner share one import name: two of them are a mixture of files."""
    for package in packages:
        folder = tmp_path / "site" / f"{package.replace('-', '_')}-1.31.1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.31.1\n")
        (folder / "top_level.txt").write_text("onnxruntime\n")
    monkeypatch.setattr("sys.path", [str(tmp_path / "site")])

    finding = doctor.check_onnxruntime()

    assert finding.level == level
    if level == "WARN":
        assert ", ".join(packages) in finding.detail
        assert f"pip uninstall {' '.join(packages)}" in finding.fix
