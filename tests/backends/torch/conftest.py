from __future__ import annotations

from pathlib import Path

import pytest

from backends.api import LoadableModel, Runner
from backends.loading import open_model
from backends.testing.models import make_random_model
from backends.testing.oracle import Oracle
from tests.backends.torch.drive import make_runner


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the kernels, to test what torch computes itself; `test_kernels` is about the rest."""
    monkeypatch.setenv("HOSTELRY_KERNELS", "0")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("torch") / "llama")


@pytest.fixture(scope="session")
def model(folder: Path) -> LoadableModel:
    return open_model(folder)


@pytest.fixture(scope="session")
def oracle(model: LoadableModel) -> Oracle:
    return Oracle(model)


@pytest.fixture(scope="session")
def slotted(model: LoadableModel) -> Runner:
    """Shared, as is `paged`: every test says where its sequences begin, so nothing carries over."""
    return make_runner(model)


@pytest.fixture(scope="session")
def paged(model: LoadableModel) -> Runner:
    return make_runner(model, layout="paged")


@pytest.fixture(params=["slotted", "paged"])
def runner(request: pytest.FixtureRequest) -> Runner:
    found: Runner = request.getfixturevalue(request.param)
    return found
