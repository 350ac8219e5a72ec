"""`hostelry models`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import httpx
import pytest
import respx
from click.testing import CliRunner, Result

from backends.choice import RunnerChoice
from backends.errors import UnsupportedModel
from backends.registry import create_runner
from backends.testing.models import ModelSizes, make_random_model, write_gguf_of
from gateway.cli import main
from gateway.commands import models

SIZES = ModelSizes(
    num_layers=2, hidden_size=64, ffn_size=64, num_heads=4, num_kv_heads=2, vocab_size=300, window=8, num_experts=4
)

RUNNER_FOR = models.runner_for


@pytest.fixture(autouse=True)
def _fake_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "runner_for", lambda formats: "fake")


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, arguments)])


def test_a_gguf_file(tmp_path: Path) -> None:
    """Formats, sizes, architecture, template, checksum: all that is asked for."""
    folder = make_random_model(tmp_path / "m", sizes=SIZES)
    path = write_gguf_of(folder, tmp_path / "m.gguf", "Q8_0")

    result = invoke("inspect", path, "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (found["architecture"], found["num_layers"], found["vocab_size"]) == ("llama", 2, 300)
    assert {part["format"]: part["tensors"] for part in found["formats"]} == {"Q8_0": 16, "F32": 5}
    assert found["files"][0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["chat_template"]["first_line"].startswith("{% for message")
    assert 8 < found["bits_per_weight"] < 10
    assert (found["error"], found["runner"]) == ("", "fake")


def test_a_folder_and_what_it_needs(tmp_path: Path) -> None:
    """Windows and experts are told; the checksum can be left out."""
    windowed = make_random_model(tmp_path / "g", sizes=SIZES, family="gemma2")
    mixture = make_random_model(tmp_path / "x", sizes=SIZES, family="mixtral")

    first = invoke("inspect", windowed, "--no-checksum")
    second = invoke("inspect", mixture)

    assert "attention windows of 8 tokens in 1 of 2 layers" in first.stdout
    assert "sha256         " not in first.stdout
    assert "mixture of experts (2 of 4 a token)" in second.stdout
    assert "model.safetensors" in second.stdout


def test_a_model_that_cannot_be_served(tmp_path: Path) -> None:
    """`inspect` of a model that cannot be served prints what is known, then the reason; exit status 1."""
    folder = make_random_model(tmp_path / "m", sizes=SIZES)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "StrangeForCausalLM"))

    result = invoke("inspect", folder)

    assert result.exit_code == 1
    assert "21" not in result.stderr
    assert "× F32" in result.stdout
    assert "no: " in result.stdout
    assert "StrangeForCausalLM" in result.stdout


def test_a_format_that_the_runner_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the runner's."""
    folder = make_random_model(tmp_path / "m", sizes=SIZES)

    def refuse(formats: set[str]) -> str:
        raise UnsupportedModel(f"no {sorted(formats)}")

    monkeypatch.setattr(models, "runner_for", refuse)

    result = invoke("inspect", folder)

    assert result.exit_code == 1
    assert "no: no ['F32']" in result.stdout


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [("x.gguf", b"nothing", "neither"), ("x.gguf", b"GGUF", "truncated"), ("x.pt", b"PK\x03\x04aaaa", "pickled")],
)
def test_what_is_no_model(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    """One line with the file and the reason."""
    (tmp_path / name).write_bytes(raw)

    result = invoke("inspect", tmp_path / name)

    assert result.exit_code == 1
    assert message in result.stderr
    assert name in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_an_empty_folder(tmp_path: Path) -> None:
    """Says what is expected in it."""
    result = invoke("inspect", tmp_path)

    assert result.exit_code == 1
    assert "config.json" in result.stderr


def test_the_models_of_a_server(tmp_path: Path, respx_mock: respx.MockRouter) -> None:
    """One id a line, asked for with the key."""
    route = respx_mock.get("http://house/v1/models").mock(
        httpx.Response(200, json={"data": [{"id": "chat"}, {"id": "code"}]})
    )

    result = invoke("list", "--url", "http://house/", "--api-key", "sk-ho-12345678", "--data-dir", tmp_path)

    assert result.stdout == "chat\ncode\n"
    assert route.calls.last.request.headers["authorization"] == "Bearer sk-ho-12345678"


def test_a_server_that_refuses(tmp_path: Path, respx_mock: respx.MockRouter) -> None:
    """The message of a server that refuses is shown."""
    respx_mock.get("http://house/v1/models").mock(httpx.Response(401, json={"error": {"message": "wrong key"}}))

    result = invoke("list", "--url", "http://house", "--data-dir", tmp_path)

    assert result.exit_code == 1
    assert "wrong key" in result.stderr


def test_the_runner_of_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner of this machine is named if it takes every format; else the message names format and remedy."""
    monkeypatch.setattr(models, "choose_runner", lambda: RunnerChoice(runner="fake", reason="test"))
    taken = set(create_runner("fake").capabilities().formats)

    assert RUNNER_FOR(taken) == "fake"
    with pytest.raises(UnsupportedModel, match=r"fake has no Q99.*hostelry quantize"):
        RUNNER_FOR({"Q99"})
