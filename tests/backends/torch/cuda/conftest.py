from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]


@pytest.fixture
def device() -> torch.device:
    """Device for Triton's kernels: a GPU, or the CPU under Triton's interpreter (`test_interpreter.py`)."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("not verified: needs CUDA (test_interpreter.py runs this without)")
    return torch.device("cuda")
