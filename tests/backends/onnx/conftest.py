from __future__ import annotations

from pathlib import Path

import pytest

from backends.api import LoadableModel, Runner
from backends.kernels.library import SWITCH_VARIABLE
from backends.loading import open_model
from backends.testing.models import make_random_model
from backends.testing.oracle import Oracle
from tests.backends.onnx.drive import make_runner


@pytest.fixture(params=["1", "0"], ids=["kernels", "stock"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostelry's operators, then onnxruntime's own, for attention and products; the same twice without a build."""
    monkeypatch.setenv(SWITCH_VARIABLE, request.param)


@pytest.fixture(params=["cpu-kernels", "cpu-stock", "device"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every attention that there is: Hostelry's, onnxruntime's, and the plain one of devices."""
    name, _, operators = str(request.param).partition("-")
    monkeypatch.setenv(SWITCH_VARIABLE, "0" if operators == "stock" else "1")
    return name


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("onnx") / "llama")


@pytest.fixture(scope="session")
def model(folder: Path) -> LoadableModel:
    return open_model(folder)


@pytest.fixture(scope="session")
def oracle(model: LoadableModel) -> Oracle:
    return Oracle(model)


@pytest.fixture(scope="session", params=["1", "0"], ids=["kernels", "stock"])
def runner(request: pytest.FixtureRequest, model: LoadableModel) -> Runner:
    """Shared: every test says which slots it uses and where its sequences begin, so nothing carries over.

    One with Hostelry's operators and one with onnxruntime's own, as by `operators`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH_VARIABLE, request.param)
        return make_runner(model)
