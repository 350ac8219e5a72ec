from __future__ import annotations

import pytest

from backends.kernels.library import Library
from tests.backends.kernels.building import all_levels


@pytest.fixture(scope="session")
def library() -> Library:
    """Built from the sources of this tree, so that no older build is tested by mistake."""
    return Library(all_levels())
