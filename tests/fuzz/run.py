"""Runs one target under atheris; see the package. Arguments after the target's name are libFuzzer's."""

from __future__ import annotations

import sys


def main() -> None:
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["backends"]):
        from tests.fuzz.targets import CORPUS, TARGETS

    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], str(corpus), "-max_len=8192", "-rss_limit_mb=2048", *sys.argv[1:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
