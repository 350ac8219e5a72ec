"""The benchmark's own arithmetic on a small model, and its refusal."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
import torch

from benchmarks.cuda import LLAMA_3_8B, Load, measure
from tests.backends.torch.cuda.drive import recorder


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_it_refuses_without_cuda() -> None:
    """The benchmark says what it needs, measures nothing, and fails."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.cuda"], capture_output=True, text=True, timeout=120)

    assert done.returncode == 1
    assert "needs CUDA" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_measures_a_small_model(device: torch.device) -> None:
    """Every number that it promises is there."""
    spec = msgspec.structs.replace(
        LLAMA_3_8B, hidden_size=64, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=16, ffn_size=64, vocab_size=96
    )

    numbers = measure(
        spec,
        Load(streams=3, steps=3, context=20, rounds=1),
        device=device,
        dtype=torch.float16,
        record=recorder(device),
        buffer_bytes=2**20,
    )

    assert all(isinstance(number, int | float) for number in numbers.values())
    assert numbers["streams"] == 3
