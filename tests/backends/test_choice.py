"""Runner that `auto` chooses, by machine and by what is installed."""

from __future__ import annotations

import pytest

from backends import choice
from backends.choice import choose_runner
from backends.registry import RunnerUnavailable


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without accelerators, where everything is installed."""
    monkeypatch.setattr(choice, "has_cuda_device", lambda: False)
    monkeypatch.setattr(choice, "has_metal_device", lambda: False)
    install(monkeypatch, "onnx", "torch", "mlx")
    return monkeypatch


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(choice, "missing_packages", lambda name: ((), name) if name in names else ((name,), name))


@pytest.mark.parametrize(
    ("installed", "expected"),
    [(("onnx", "torch", "mlx"), "onnx"), (("torch", "mlx"), "torch"), (("mlx",), "mlx")],
)
def test_the_cpu_order(machine: pytest.MonkeyPatch, installed: tuple[str, ...], expected: str) -> None:
    """ONNX Runtime first; anything installed is better than nothing."""
    install(machine, *installed)

    chosen = choose_runner()

    assert (chosen.runner, chosen.fallback) == (expected, "")
    assert "no accelerator was found" in chosen.reason


@pytest.mark.parametrize(("device", "expected"), [("has_cuda_device", "torch"), ("has_metal_device", "mlx")])
def test_an_accelerator_wins(machine: pytest.MonkeyPatch, device: str, expected: str) -> None:
    """Each device has the runner that is fastest there."""
    machine.setattr(choice, device, lambda: True)

    assert choose_runner().runner == expected


def test_an_unused_accelerator_is_reported(machine: pytest.MonkeyPatch) -> None:
    """The CPU serves, and the operator hears which extra would have used the device."""
    machine.setattr(choice, "has_cuda_device", lambda: True)
    install(machine, "onnx")

    chosen = choose_runner()

    assert chosen.runner == "onnx"
    assert 'an NVIDIA device is here, but torch is not installed: pip install "hostelry[torch]"' in chosen.fallback


def test_without_any_engine(machine: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    install(machine)

    with pytest.raises(RunnerUnavailable, match=r"pip install .hostelry\[onnx\]"):
        choose_runner()


def test_asking_the_hardware_needs_no_library() -> None:
    """Hardware queries need no library and return a result on any machine."""
    assert isinstance(choice.has_cuda_device(), bool)
    assert isinstance(choice.has_metal_device(), bool)
