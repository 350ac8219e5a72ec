"""`python -m tests.machine`: says in a sentence each what this machine lacks for `make test`; status 1 if anything."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec

from backends.kernels.library import KernelsUnavailable, load_library
from tests.allowed_skips import MISSING, WITHOUT
from tests.gateway.tenants.store.postgres import find_programs


def lacks() -> dict[str, str]:
    """Missing component → a sentence that says how to get it."""
    found = {}
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        found["compiler"] = "There is no C++17 compiler, and without it no CPU kernels: apt-get install g++."
    else:
        try:
            load_library()
        except KernelsUnavailable as error:
            found["kernels"] = (
                f"The CPU kernels cannot be used: {error}; then run `make kernels` and read what it prints."
            )
    if find_programs() is None:
        found["postgresql"] = "PostgreSQL is not installed, and the store is tested on it: apt-get install postgresql."
    for package in ("torch", "mlx"):
        if find_spec(package) is None:
            found[package] = f"The package {package} is not installed: run `make clean`, then `make test` again."
    return found


def main() -> int:
    unknown = WITHOUT - set(MISSING)
    if unknown:
        print(f"WITHOUT may name {', '.join(MISSING)}; it names {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 1
    missing = {name: text for name, text in lacks().items() if name not in WITHOUT}
    for name, text in missing.items():
        excuse = f' Or leave it out: make test WITHOUT="{name}".' if name in MISSING else ""
        print(text + excuse, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
