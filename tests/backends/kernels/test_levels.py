"""Choice of the instruction set: the best of the CPU, or the one requested, never one that the CPU lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.kernels.library import LEVEL_VARIABLE, LEVELS, KernelsUnavailable, Library, load_library
from backends.kernels.rates import measure, peak_gops
from tests.backends.kernels.building import SOURCE, build, kept

ASK = """
import sys
from pathlib import Path
from backends.kernels.library import Library
from backends.kernels.linear import linear_of
from tests.backends.kernels.test_linear import activations
from tests.backends.random_blocks import random_tensor
library = Library(Path(sys.argv[1]))
y = linear_of(library, random_tensor("Q4_K", rows=40, columns=256)).multiply(activations(9, 256))
print(library.level, y.tobytes().hex())
"""


def answer(library: Library, **environment: str) -> tuple[str, str]:
    """Level and bits of a product in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(library.path)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    level, bits = done.stdout.split()
    return level, bits


def test_each_level_can_be_forced(library: Library) -> None:
    """The environment forces each level, with the same result; one that this CPU lacks gives the best instead of a
    crash.
    """
    best, expected = answer(library, **{LEVEL_VARIABLE: ""})

    for name in LEVELS:
        level, bits = answer(library, **{LEVEL_VARIABLE: name})
        assert level == (name if library.set_level(name) else best)
        assert bits == expected
    assert answer(library, **{LEVEL_VARIABLE: "abacus"}) == (best, expected)
    library.set_level(best)


def test_an_unknown_level_changes_nothing(library: Library) -> None:
    """The level in use stays."""
    before = library.level

    assert not library.set_level("abacus")
    assert library.level == before


def test_rates_are_plausible(library: Library) -> None:
    """Every format and count has one, and none is beyond the ceiling of the same level."""
    best = library.level
    rates = list(measure(library, ("Q4_0", "Q6_K"), (1, 8), outputs=512, columns=512, threads=1))

    assert [(rate.format, rate.rows) for rate in rates] == [("Q4_0", 1), ("Q4_0", 8), ("Q6_K", 1), ("Q6_K", 8)]
    assert all(rate.gops > 0 and rate.read_gb_s > 0 for rate in rates)
    assert max(rate.gops for rate in rates) < 1.5 * peak_gops(library, threads=1), best


def test_without_a_library_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, not built, not a library, made for another version."""
    with pytest.raises(KernelsUnavailable, match="not built; install a C"):
        load_library(tmp_path / "nothing.so")
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(KernelsUnavailable, match="cannot be loaded"):
        load_library(tmp_path / "text.so")
    old = tmp_path / "old.cpp"
    old.write_text('extern "C" __attribute__((visibility("default"))) int hk_abi_version() { return 0; }')
    with pytest.raises(KernelsUnavailable, match="interface 0 and version 5 is expected; install hostelry again"):
        load_library(build(tmp_path / "old.so", [old], "-shared"))
    monkeypatch.setenv("HOSTELRY_KERNELS", "0")
    with pytest.raises(KernelsUnavailable, match="switched off"):
        load_library(tmp_path / "nothing.so")


def test_sanitizers_find_nothing(library: Library) -> None:
    """Odd shapes of every format on every level of this CPU, with buffers that end where the data ends."""
    driver = Path(__file__).parent / "driver.cpp"
    sources = [driver, *(path for path in sorted(SOURCE.glob("*.cpp")) if not path.name.startswith("ort_"))]
    flags = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    here = [level for level in LEVELS if library.cpu_has(level)]
    program = kept(
        "driver", [SOURCE, driver], f"{flags} {here}", lambda folder: build(folder / "it", sources, *flags, levels=here)
    )

    done = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("checked")
    assert np.int64(done.stdout.split()[1]) >= 12
