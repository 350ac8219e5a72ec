"""Usage records under kills: the gateway is killed under load, again and again; nothing may be lost.

python -m benchmarks.kills [--kills 200] [--starts 40] [--clients 6] [--seed N]

Clients keep the id and the usage of every response whose last byte arrived; half of them stream. Each kill is a SIGKILL
at a random moment between a twentieth of a second and one and a half, so that some fall into the drain of the journal
to the store; `starts` more hit a gateway that is starting and reads what the one before it left. At the end the rows,
their sums and the responses must agree. The fake runner is used, so that many requests are open at every kill.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.record import Bar, NothingMeasured, Numbers, at_least, at_most, write_result
from e2e.harness.kills import Plan, audit, kill_under_load, read_books

KILLS = 200
_TELL_EVERY = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    arguments = parser.parse_args()
    plan = Plan(
        kills=arguments.kills,
        starts_killed=arguments.starts,
        clients=arguments.clients,
        under_load_s=(0.05, 1.5),
        arguments=("--backend", "fake"),
    )
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        seen = kill_under_load(plan, Path(directory), random.Random(arguments.seed), _tell)
        found = audit(seen, read_books(plan, Path(directory)))
    numbers: dict[str, object] = {
        "kills": plan.kills,
        "kills_while_starting": plan.starts_killed,
        "clients": plan.clients,
        "minutes": round((time.monotonic() - start) / 60, 1),
        **msgspec.to_builtins(found),
        "is_exact": found.is_exact,
    }
    chosen = f"--kills {plan.kills} --starts {plan.starts_killed} --clients {plan.clients} --seed {arguments.seed}"
    write_result("kills", numbers, bars=bars(numbers), command=f"python -m benchmarks.kills {chosen}")


def bars(numbers: Numbers) -> list[Bar]:
    """Kills, and the errors after them: there must be none. Raises `NothingMeasured` if no response arrived."""
    if not numbers["answered"]:
        raise NothingMeasured("no answer arrived between the kills, so none could be lost; raise --kills or --clients")
    wrong = {"rows lost": "lost", "rows doubled": "doubled", "rows that differ": "differing"}
    return [
        at_least("kills under load", numbers["kills"], KILLS),
        *(at_most(name, numbers[key], 0) for name, key in wrong.items()),
        at_most("tokens by which sums differ", _tokens_off(numbers), 0),
    ]


def _tokens_off(numbers: Numbers) -> int:
    """Tokens of rows less those that clients received, and less the sums by the hour; absolute values."""
    seen, unseen = numbers["seen_tokens"], numbers["unseen_tokens"]
    rows, summed = numbers["row_tokens"], numbers["summed_tokens"]
    return sum(abs(rows[kind] - seen[kind] - unseen[kind]) + abs(rows[kind] - summed[kind]) for kind in rows)


def _tell(number: int) -> None:
    if number % _TELL_EVERY == 0:
        print(f"{number} kills", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
