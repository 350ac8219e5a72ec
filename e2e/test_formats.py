"""Every quantization format from outside: made by the command, inspected, served, and answering what the blocks say."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from e2e.harness.models import demo_model
from e2e.harness.nonce import SEED
from e2e.harness.reference import Reference
from e2e.harness.running_server import KEYS, Target, server_arguments
from e2e.harness.server import Server
from e2e.harness.wire import ask, chat_text, post_ok
from e2e.test_cli import hostelry

FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "Q4_K_M")
QUESTIONS = ("What is the capital of France?", "What is the capital of Japan?", "France capital")
NEAR = 1e-3
"""Difference of two float32 implementations, in nats."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo model in every format, by the command that users have."""
    folder = tmp_path_factory.mktemp("formats")
    made = {name: folder / f"{name}.gguf" for name in FORMATS}
    for name, path in made.items():
        done = hostelry("quantize", str(demo_model()), str(path), "--format", name, directory=folder)
        assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def running_server(files: dict[str, Path], runner: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """All of them at once, with the settings that users get by default."""
    server = Server(server_arguments(tmp_path_factory.mktemp("house"), files, runner=runner))
    try:
        yield Target(url=server.wait_ready(180))
    finally:
        server.stop()


@pytest.fixture(scope="module")
def exact_house(files: dict[str, Path], runner: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """All of them with `exact = true`."""
    folder = tmp_path_factory.mktemp("exact")
    arguments = server_arguments(folder, {}, runner=runner)
    with (folder / "hostelry.toml").open("a", encoding="utf-8") as config:
        config.writelines(
            f'[[models]]\nname = "{name}"\npath = "{path}"\nexact = true\n' for name, path in files.items()
        )
    server = Server(arguments)
    try:
        yield Target(url=server.wait_ready(180))
    finally:
        server.stop()


@pytest.mark.parametrize("name", FORMATS)
def test_inspect_names_the_format(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    """`hostelry models inspect` tells what the matrices of a file are."""
    done = hostelry("models", "inspect", str(files[name]), "--json", directory=tmp_path)

    assert done.returncode == 0, done.stderr
    assert name.removesuffix("_M") in json.dumps(json.loads(done.stdout))


@pytest.mark.parametrize("name", FORMATS)
def test_a_served_format_answers_what_its_blocks_say(running_server: Target, files: dict[str, Path], name: str) -> None:
    """The text that an independent forward over the dequantized weights says."""
    reference = reference_of(files, name)
    for question in QUESTIONS:
        answer = post_ok(f"{running_server.api}/chat/completions", ask(question, model=name, max_tokens=12), KEYS.acme)

        assert chat_text(answer) == reference.chat(question, max_tokens=12).text


@pytest.mark.parametrize("name", FORMATS)
def test_log_probabilities_are_those_of_the_blocks(exact_house: Target, files: dict[str, Path], name: str) -> None:
    """Log-probabilities are so near the reference that no other format could pass for this one."""
    reference = reference_of(files, name)
    tokens = random.Random(SEED).sample(range(300, reference.vocabulary.size), 40)
    body = {"model": name, "prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 0}

    answer = post_ok(f"{exact_house.api}/completions", body, KEYS.acme)

    found = answer["choices"][0]["logprobs"]["token_logprobs"][1:]
    assert found == pytest.approx(reference.logprobs(tokens), abs=NEAR)


def test_no_format_could_pass_for_another(files: dict[str, Path]) -> None:
    """The check above can fail: log-probabilities of different blocks lie further apart than it allows."""
    references = {name: reference_of(files, name) for name in FORMATS if name != "Q8_1"}
    tokens = random.Random(SEED).sample(range(300, 1024), 40)
    all_logprobs = [np.array(reference.logprobs(tokens)) for reference in references.values()]

    apart = [np.abs(one - other).max() for one, other in combinations(all_logprobs, 2)]

    assert min(apart) > 2 * NEAR


def reference_of(files: dict[str, Path], name: str) -> Reference:
    """Reference of a file; for Q8_1, which the gguf package cannot decode, the file in Q8_0 with the same values."""
    return Reference(files[{"Q8_1": "Q8_0"}.get(name, name)])


def test_quantize_at_load_keeps_the_file(tmp_path: Path) -> None:
    """`serve --quantize` makes the file at the first start only, and answers as the quantized file does."""
    arguments = [*server_arguments(tmp_path, {"demo": demo_model()}, runner="onnx"), "--quantize", "Q4_K_M"]
    times = []
    for _ in range(2):
        server = Server(arguments)
        try:
            target = Target(url=server.wait_ready())
            answer = post_ok(f"{target.api}/chat/completions", ask(QUESTIONS[0], max_tokens=12), KEYS.acme)
        finally:
            server.stop()
        (kept,) = (tmp_path / "data").rglob("*.gguf")
        times.append(kept.stat().st_mtime_ns)

    assert times[0] == times[1]
    assert chat_text(answer) == Reference(kept).chat(QUESTIONS[0], max_tokens=12).text
    assert kept.stat().st_size < demo_model().stat().st_size
