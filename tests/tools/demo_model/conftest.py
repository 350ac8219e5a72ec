"""The shipped demo model, unpacked once for the whole run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from gateway.demo import model_path
from tools.demo_model.checkpoint import Checkpoint, write_folder
from tools.demo_model.export import read_gguf


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread: the order of float sums, hence trained weights, depends on it, and more threads stall in
    parallel with other busy tests.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shipped() -> Checkpoint:
    return read_gguf(model_path())


@pytest.fixture(scope="session")
def shipped_folder(shipped: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostelry-demo")
    write_folder(shipped, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(shipped: Checkpoint) -> Tokenizer:
    return Tokenizer.from_str(shipped.tokenizer_json)
