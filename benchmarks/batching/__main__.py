"""Batching as clients see it: streams against the ceiling of the linears, fairness, the prefix cache, many tenants.

    python -m benchmarks.batching [--parts streams fairness prefixes crowd] [--rounds 5] [--quick]

A random llama of 495 million weights, quantized by `hostelry quantize --pure`, on two threads. What is compared is
measured in turns in one run; medians over rounds, ratios within a round. Some parts alone go into a file of their own.
`--quick` shows in a minute or two that everything runs, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.batching import crowd, fairness, prefixes, streams
from benchmarks.batching.scene import FULL, QUICK, Scene
from benchmarks.record import Bar, Numbers, write_result


class Part(msgspec.Struct, frozen=True):
    measure: Callable[[Scene], dict[str, object]]
    bars: Callable[[Numbers], list[Bar]]


PARTS = {
    "streams": Part(streams.measure_streams, streams.bars),
    "fairness": Part(fairness.measure_fairness, fairness.bars),
    "prefixes": Part(prefixes.measure_prefixes, prefixes.bars),
    "crowd": Part(crowd.measure_crowd, crowd.bars),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    effort = QUICK if given.quick else FULL
    effort = msgspec.structs.replace(effort, rounds=given.rounds or effort.rounds)
    numbers: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        scene = Scene(Path(directory), effort)
        for part in given.parts:
            numbers[part] = PARTS[part].measure(scene)
            print(part, json.dumps(numbers[part], indent=2), flush=True)
    if not given.quick:
        command = f"python -m benchmarks.batching --parts {' '.join(given.parts)} --rounds {effort.rounds}"
        name = "batching" if len(numbers) == len(PARTS) else "_".join(["batching", *numbers])
        write_result(name, numbers, bars=bars(numbers), command=command)


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of every part that was measured."""
    return [bar for part, found in numbers.items() for bar in PARTS[part].bars(found)]


if __name__ == "__main__":
    main()
