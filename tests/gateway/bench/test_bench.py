"""`hostelry bench` against real servers over the fake engine: what it counts, shows and refuses."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.bench.kernels import read_bytes_per_s
from gateway.bench.load import BenchFailed, Shot, Target, Volley, measured_maker, new_session, volley
from gateway.bench.own_server import OwnServer, own_server
from gateway.bench.run import score
from gateway.demo import model_path

FAKE = ["--backend", "fake"]


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server(["--model", f"bench={model_path()}", *FAKE]) as running:
        yield running


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli", "bench", *FAKE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_rows_for_every_server_and_count(server: OwnServer) -> None:
    """Two servers, two numbers of streams: four rows, with what was asked for in them, and the machine."""
    other = ["--against", server.target.url, "--against-model", "bench", "--against-key", server.target.key]
    done = bench("--streams", "1,3", "--tokens", "8", "--prompt-tokens", "40", "--rounds", "2", "--json", *other)

    report = json.loads(done.stdout)

    rows = {(row["label"], row["streams"]): row for row in report["rows"]}
    assert set(rows) == {(label, count) for label in ("hostelry", server.target.url) for count in (1, 3)}
    assert {row["tokens"] for row in rows.values()} == {8}
    assert all(20 <= row["prompt_tokens"] <= 60 and row["tokens_per_s"] > 0 for row in rows.values())
    assert report["resident_bytes"] > 10e6
    assert report["ceiling_bytes_per_s"] > 1e8


def test_the_table_is_for_people() -> None:
    """The output without --json is a table of one line a row."""
    done = bench("--streams", "2", "--tokens", "4", "--rounds", "1")

    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout
    assert "hostelry" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--streams", "0"), 2, "expected numbers from 1 to 1024"),
        (("--streams", "many"), 2, "expected numbers from 1 to 1024"),
        (("--score", "no-such-file"), 2, "does not exist"),
        (("--model", "/no/such/model", "--rounds", "1"), 1, "the server did not start"),
        (("--against", "http://127.0.0.1:9/v1", "--rounds", "1"), 1, "no answer from http://127.0.0.1:9/v1"),
    ],
)
def test_what_cannot_be_measured(arguments: tuple[str, ...], status: int, words: str) -> None:
    """One line says what is wrong, and the status is an error."""
    done = bench(*arguments)

    assert done.returncode == status
    assert words in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


async def test_tokens_are_those_that_the_server_bills(server: OwnServer) -> None:
    """Counted from usage, and the first token comes before the last."""
    async with new_session() as session:
        maker = await measured_maker(session, server.target)
        fired = await volley(session, server.target, [maker.prompt(50) for _ in range(3)], tokens=6)

    assert [shot.tokens for shot in fired.shots] == [6, 6, 6]
    assert all(0 < shot.first_s <= shot.total_s <= fired.wall_s for shot in fired.shots)


def test_decode_speed_counts_only_the_time_when_all_generate() -> None:
    """A stream that waits for its prompt slows the others down; that time is none of decoding."""
    early = Shot(arrivals_s=(1.0, 2.0, 3.0, 3.5, 4.0), total_s=4.1, prompt_tokens=8, tokens=5)
    late = Shot(arrivals_s=(3.0, 3.5, 4.0, 4.5), total_s=4.6, prompt_tokens=8, tokens=8)

    both = Volley(shots=(early, late), wall_s=4.6)

    assert both.decode_tokens_per_s == pytest.approx((2 + 2 * 2) / 1.0)
    assert Volley(shots=(early,), wall_s=4.1).decode_tokens_per_s == pytest.approx(4 / 3)


def test_streams_that_never_overlap_have_no_decode_speed() -> None:
    """Nothing is invented for them."""
    first = Shot(arrivals_s=(0.1, 0.2), total_s=0.3, prompt_tokens=8, tokens=2)
    second = Shot(arrivals_s=(0.5, 0.6), total_s=0.7, prompt_tokens=8, tokens=2)

    assert Volley(shots=(first, second), wall_s=0.7).decode_tokens_per_s == 0.0


async def test_a_refusal_is_told(server: OwnServer) -> None:
    """The server's own words, not a stack trace."""
    wrong = Target(label="x", url=server.target.url, model="bench", key="sk-wrong")
    async with new_session() as session:
        with pytest.raises(BenchFailed, match="HTTP 401"):
            await volley(session, wrong, ["hello"], tokens=1)


def test_a_score_is_the_mean_over_predicted_tokens(server: OwnServer) -> None:
    """The fake engine predicts nothing: its perplexity is near that of drawing among peaked noise, and repeats."""
    text = "What is the capital of France? " * 60

    first, again = (asyncio.run(score(server.target, text)) for _ in range(2))

    assert first == again
    assert first.tokens > 100
    assert first.perplexity == pytest.approx(math.exp(first.nats))
    with pytest.raises(BenchFailed, match="too short"):
        asyncio.run(score(server.target, ""))


def test_the_ceiling_is_plausible() -> None:
    """Faster than a disk, slower than a cache."""
    assert 1e8 < read_bytes_per_s(threads=1, rounds=1) < 1e13


def test_memory_of_a_process_that_is_gone_is_nothing(tmp_path: Path) -> None:
    """Never a number of another process."""
    assert OwnServer(Target(label="x", url="http://127.0.0.1:9/v1", model="m"), 2**22).resident_bytes() == 0


def test_kernels_are_measured_alone() -> None:
    """Every number of rows of a format, and both ceilings; without kernels one line says so."""
    done = bench("--kernels", "--formats", "Q4_0", "--threads", "1", "--json")
    unknown = bench("--kernels", "--formats", "Q9_9")

    if "no CPU kernels" in done.stderr:
        pytest.skip(done.stderr.strip())
    report = json.loads(done.stdout)
    assert [rate["rows"] for rate in report["rates"]] == [1, 2, 4, 8, 16, 128]
    assert report["peak_gops"] > 0
    assert report["read_gb_s"] > 0
    assert unknown.returncode == 1
    assert "no kernels for Q9_9; there are Q4_0" in unknown.stderr.replace("\n", " ")


def test_absent_kernels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing kernels are reported with the reason."""
    monkeypatch.setenv("HOSTELRY_KERNELS", "0")

    done = bench("--kernels")

    assert done.returncode == 1
    assert "no CPU kernels: they are switched off by HOSTELRY_KERNELS=0" in done.stderr.replace("\n", " ")
