"""Where the runner computes."""

from __future__ import annotations

import torch


def choose_device() -> torch.device:
    """The current CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(device: torch.device, *, threads: int) -> str:
    """For operators: `cpu, 8 threads` or `cuda, NVIDIA H100`."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {threads} threads"
