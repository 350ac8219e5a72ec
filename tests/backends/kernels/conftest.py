from __future__ import annotations

import pytest

from backends.kernels.library import Library
from tests.backends.kernels.building import SOURCE, build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Built from the sources of this tree, so that no older build is tested by mistake."""
    sources = [path for path in sorted(SOURCE.glob("*.cpp")) if not path.name.startswith("ort_")]
    return Library(build(tmp_path_factory.mktemp("kernels") / "libkernels.so", sources, "-O3", "-shared"))
