"""Notes to operators where `auto` ends on the CPU of a machine that has better."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import choice
from backends.loading import open_model
from backends.registry import create_runner, missing_packages
from backends.testing.models import ModelSizes, make_random_model

ACCELERATORS = {"torch": "has_cuda_device", "mlx": "has_metal_device"}
SIZES = ModelSizes(num_layers=1, hidden_size=32, ffn_size=32, num_heads=1, num_kv_heads=1, vocab_size=264)


def fallbacks(directory: Path, runner: str, *, device: str) -> tuple[str, ...]:
    if missing_packages(runner)[0]:
        pytest.skip(f"runner {runner} is not installed")
    made = create_runner(runner, threads=1, device=device)
    try:
        return made.load(open_model(make_random_model(directory / "model", sizes=SIZES)), lambda _: None).fallbacks
    finally:
        made.close()


@pytest.mark.parametrize("runner", ACCELERATORS)
def test_an_accelerator_that_the_library_does_not_find_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    """The machine has it, the installed library cannot use it."""
    monkeypatch.setattr(choice, ACCELERATORS[runner], lambda: True)

    (told,) = fallbacks(tmp_path, runner, device="auto")

    assert "so the CPU serves" in told


@pytest.mark.parametrize("runner", ACCELERATORS)
def test_who_asks_for_the_cpu_hears_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str) -> None:
    """A CPU that was asked for is no fallback and gives no note."""
    monkeypatch.setattr(choice, ACCELERATORS[runner], lambda: True)

    assert fallbacks(tmp_path, runner, device="cpu") == ()


@pytest.mark.parametrize("runner", ACCELERATORS)
def test_a_machine_without_accelerator_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    """The CPU is its best."""
    monkeypatch.setattr(choice, ACCELERATORS[runner], lambda: False)

    assert fallbacks(tmp_path, runner, device="auto") == ()
