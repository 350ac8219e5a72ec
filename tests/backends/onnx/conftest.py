from __future__ import annotations

from pathlib import Path

import pytest

from backends.api import LoadableModel, Runner
from backends.loading import open_model
from backends.testing.models import make_random_model
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import make_runner


@pytest.fixture(params=["1", "0"], ids=["kernels", "MatMulNBits"])
def linears(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to multiply quantized weights; the same twice where the kernels were not built."""
    monkeypatch.setenv("HOSTELRY_KERNELS", request.param)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("onnx") / "llama")


@pytest.fixture(scope="session")
def model(folder: Path) -> LoadableModel:
    return open_model(folder)


@pytest.fixture(scope="session")
def oracle(model: LoadableModel) -> Oracle:
    return Oracle(model)


@pytest.fixture(scope="session")
def runner(model: LoadableModel) -> Runner:
    """Shared: every test says which slots it uses and where its sequences begin, so nothing carries over."""
    return make_runner(model)
