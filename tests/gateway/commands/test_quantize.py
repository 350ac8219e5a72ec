"""`hostelry quantize` from the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from backends.loading import open_model
from backends.testing.models import ModelSizes, make_random_model
from gateway.cli import main

SIZES = ModelSizes(num_layers=1, hidden_size=256, ffn_size=256, num_heads=4, num_kv_heads=2, vocab_size=400)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_random_model(tmp_path / "model", sizes=SIZES)


@pytest.fixture(autouse=True)
def _keep_signals() -> object:
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


def quantize(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["quantize", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_a_folder_becomes_a_file(folder: Path, tmp_path: Path) -> None:
    """The summary tells formats and sizes; names of formats may be lower case."""
    status, out, _ = quantize(folder, tmp_path / "q.gguf", "--format", "q4_k_m")

    assert status == 0
    assert "Q4_K_M" in out
    assert "bits a weight" in out
    assert open_model(tmp_path / "q.gguf").spec.num_layers == 1


def test_the_report_as_json(folder: Path, tmp_path: Path) -> None:
    """Every tensor with what it was and is."""
    status, out, _ = quantize(folder, tmp_path / "q.gguf", "-f", "Q8_0", "--json")

    report = json.loads(out)
    assert status == 0
    assert report["format"] == "Q8_0"
    tensors = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert (tensors["blk.0.attn_q.weight"]["was"], tensors["blk.0.attn_q.weight"]["format"]) == ("F32", "Q8_0")
    assert tensors["output_norm.weight"]["format"] == "F32"
    assert report["num_bytes"] < report["was_bytes"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{folder}", "{tmp}/q.gguf", "-f", "Q9"], 2, "Q4_K_M"),
        (["{tmp}/none", "{tmp}/q.gguf", "-f", "Q8_0"], 2, "does not exist"),
        (["{folder}", "{tmp}/none/q.gguf", "-f", "Q8_0"], 2, "create it"),
        (["{folder}", "{tmp}/there.gguf", "-f", "Q8_0"], 2, "--force"),
        (["{folder}", "{tmp}", "-f", "Q8_0"], 2, "is a folder"),
        (["{tmp}/there.gguf", "{tmp}/q.gguf", "-f", "Q8_0"], 1, "neither a GGUF file"),
        (["{folder}", "{tmp}/q.gguf", "-f", "Q2_K_S"], 1, "--importance"),
        (["{folder}", "{tmp}/q.gguf", "-f", "Q2_K", "--importance", "{tmp}/there.gguf"], 1, "importance matrix"),
        (["{folder}", "{tmp}/q.gguf", "-f", "Q2_K", "--importance", "{tmp}/no.dat"], 1, "no such file"),
    ],
)
def test_every_refusal_is_one_clear_line(
    folder: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    """Exit status 2 for wrong usage, 1 for failure; nothing is left behind."""
    (tmp_path / "there.gguf").write_bytes(b"something else")

    found, _, err = quantize(*(argument.format(folder=folder, tmp=tmp_path) for argument in arguments))

    assert found == status
    assert message in err
    assert "Traceback" not in err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "there.gguf"]


_PAUSED = """
import sys, time
from gateway.cli import main
from gateway.commands import quantize

def paused(fraction, tensor):
    print("under way", flush=True)
    sys.stdin.read()

inner = quantize.quantize_file
quantize.quantize_file = lambda *args, **options: inner(*args, **(options | {"progress": paused}))
main(["quantize", *sys.argv[1:]])
"""


def test_a_terminated_run_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """The old file stays as it was and the unfinished one is removed."""
    destination = tmp_path / "q.gguf"
    destination.write_bytes(b"old")
    command = [sys.executable, "-c", _PAUSED, str(folder), str(destination), "-f", "Q8_0", "--force"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"under way\n"
        during = {entry.name for entry in tmp_path.iterdir()}

        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)

    assert ".q.gguf.partial" in during
    assert process.returncode == 128 + signal.SIGTERM
    assert {entry.name for entry in tmp_path.iterdir()} == {"model", "q.gguf"}
    assert destination.read_bytes() == b"old"
