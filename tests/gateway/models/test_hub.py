"""Models by name, from a hub on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from huggingface_hub import constants, file_download

from backends.errors import ModelError
from gateway.models.hub import resolve_model
from tests.gateway.models.hub_server import Hub, serve

WEIGHTS = bytes(range(256)) * 2048


def fill() -> dict[str, dict[str, bytes]]:
    return {
        "inn/folder": {
            "config.json": b"{}",
            "tokenizer.json": b'{"model": {}}',
            "model-00001-of-00002.safetensors": WEIGHTS,
            "model-00002-of-00002.safetensors": WEIGHTS[::-1],
            "model.safetensors.index.json": b'{"weight_map": {}}',
            "pytorch_model.bin": b"never",
            "consolidated.pt": b"never",
            "modeling_inn.py": b"never",
            "onnx/model.safetensors": b"never",
        },
        "inn/ggufs": {
            "README.md": b"hi",
            "inn-Q4_K_M.gguf": WEIGHTS,
            "inn-Q8_0.gguf": b"q8",
            "inn.IQ4_K_M.gguf": b"iq",
        },
        "inn/one": {"inn-q4_0.gguf": b"GGUF"},
        "inn/pickled": {"config.json": b"{}", "pytorch_model.bin": b"never"},
        "inn/empty": {},
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """huggingface-hub read its variables when it was first imported, so its constants are changed."""
    with serve(Hub(fill())) as hub:
        point_to(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "no-such-file")
        yield hub


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


class Recorder:
    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.stages: list[str] = []

    def __call__(self, fraction: float, stage: str) -> None:
        self.fractions.append(fraction)
        self.stages.append(stage)


def resolve(reference: str, cache_dir: Path) -> Path:
    return resolve_model(reference, cache_dir=cache_dir, progress=Recorder())


def test_existing_paths_are_returned(tmp_path: Path) -> None:
    """Existing paths are returned without any look-up."""
    (tmp_path / "model.gguf").touch()

    assert resolve(str(tmp_path), tmp_path) == tmp_path
    assert resolve(str(tmp_path / "model.gguf"), tmp_path) == tmp_path / "model.gguf"


def test_folder_holds_what_a_model_needs(hub: Hub, tmp_path: Path) -> None:
    """Configuration, tokenizer and weights arrive whole; pickles, code and other folders are not even asked for."""
    folder = resolve("inn/folder", tmp_path)

    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    wanted = {name: content for name, content in hub.repositories["inn/folder"].items() if content != b"never"}
    assert files == wanted
    assert sorted(hub.downloads) == sorted(wanted)


def test_second_time_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    """Cached models are not downloaded again."""
    first = resolve("inn/folder", tmp_path)
    downloads = list(hub.downloads)

    second = resolve("inn/folder", tmp_path)

    assert second == first
    assert hub.downloads == downloads


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("inn/ggufs:inn-Q8_0.gguf", "inn-Q8_0.gguf"),
        ("inn/ggufs:Q4_K_M", "inn-Q4_K_M.gguf"),
        ("inn/ggufs:q4_k_m", "inn-Q4_K_M.gguf"),
        ("inn/one", "inn-q4_0.gguf"),
    ],
)
def test_one_gguf_file(hub: Hub, tmp_path: Path, reference: str, name: str) -> None:
    """A GGUF file is chosen by its name or its format, and nothing else is downloaded."""
    path = resolve(reference, tmp_path)

    assert path.name == name
    assert path.read_bytes() == hub.repositories[reference.partition(":")[0]][name]
    assert hub.downloads == [name]


def test_progress_grows_to_the_end(hub: Hub, tmp_path: Path) -> None:
    """Fractions only grow, and the last one is 1."""
    recorder = Recorder()

    resolve_model("inn/folder", cache_dir=tmp_path, progress=recorder)

    assert recorder.fractions == sorted(recorder.fractions)
    assert recorder.fractions[-1] == 1.0
    assert recorder.stages[-1] == "downloaded"


def test_no_progress_without_a_download(hub: Hub, tmp_path: Path) -> None:
    """A cached model is there at once."""
    resolve("inn/one", tmp_path)
    recorder = Recorder()

    resolve_model("inn/one", cache_dir=tmp_path, progress=recorder)

    assert recorder.fractions == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("inn/ggufs", r"inn/ggufs: choose one of its GGUF files: inn/ggufs:inn-Q4_K_M\.gguf, inn/ggufs:inn-Q8_0"),
        ("inn/ggufs:Q5_0", r"no GGUF file is named or ends so; choose one of inn/ggufs:inn-Q4_K_M\.gguf"),
        ("inn/folder:Q8_0", "the repository holds no GGUF files; name it as inn/folder"),
        ("inn/pickled", "holds neither safetensors nor GGUF files; pickled weights"),
        ("inn/empty", "holds neither safetensors nor GGUF"),
        ("inn/none", r"inn/none: no such file or folder \(tried .*\), and http://127.* shows no such model; check the"),
    ],
)
def test_refusals_say_what_to_do(hub: Hub, tmp_path: Path, reference: str, message: str) -> None:
    """Each refusal names the choices or the next step, and nothing was downloaded."""
    with pytest.raises(ModelError, match=message):
        resolve(reference, tmp_path)

    assert hub.downloads == []


@pytest.mark.parametrize(
    "reference", ["", "gpt2", "a/b/c", "/no/such/model", "./inn", "../inn/x", "https://x/y", "a/b:", "\0/x"]
)
def test_other_words_are_refused_without_a_request(hub: Hub, tmp_path: Path, reference: str) -> None:
    """References that are neither a path nor shaped like a hub name cause no request."""
    reference = reference or "no such thing"

    with pytest.raises(ModelError, match=r"no such file or folder \(tried .*owner/name:Q4_K_M"):
        resolve(reference, tmp_path)

    assert hub.requests == []


def test_gated_model_asks_for_a_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a gated model says how to get access; with a token the download works."""
    hub.gated.add("inn/one")

    with pytest.raises(
        ModelError, match=r"access is restricted; accept the terms at http://127.*/inn/one and set HF_TOKEN"
    ):
        resolve("inn/one", tmp_path)

    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert resolve("inn/one", tmp_path).read_bytes() == b"GGUF"


def test_broken_download_leaves_no_model(hub: Hub, tmp_path: Path) -> None:
    """Files that broke off are never taken for the model; the next try completes it."""
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(file_download, "http_get", write_half)
        with pytest.raises(ModelError, match="inn/folder: the download failed: OSError: broke off"):
            resolve("inn/folder", tmp_path)

    assert not list(tmp_path.rglob("*.safetensors"))
    folder = resolve("inn/folder", tmp_path)
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == WEIGHTS


def write_half(url: str, temp_file: BinaryIO, **_: object) -> None:
    temp_file.write(WEIGHTS[: len(WEIGHTS) // 2])
    raise OSError("broke off")


def test_interrupted_connection_is_tried_again(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks in the middle costs another request, not the model."""
    monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface-hub waits a second before it tries again
    hub.broken_downloads = 1

    path = resolve("inn/ggufs:Q4_K_M", tmp_path)

    assert path.read_bytes() == WEIGHTS
    assert hub.downloads == ["inn-Q4_K_M.gguf"] * 2


def test_offline_uses_the_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached model is found with HF_HUB_OFFLINE, and the absence of another explained, without a request."""
    folder = resolve("inn/folder", tmp_path)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert resolve("inn/folder", tmp_path) == folder
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set; unset it to download"):
        resolve("inn/one", tmp_path)
    assert hub.requests == []


def test_incomplete_cache_offline_is_no_model(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder from which a shard is missing is not taken for the model."""
    folder = resolve("inn/folder", tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(ModelError, match="not completely in the cache"):
        resolve("inn/folder", tmp_path)


def test_unreachable_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that does not answer is named, with what can be done."""
    point_to("http://127.0.0.1:9", monkeypatch)

    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:9 cannot be reached .* or name a local path"):
        resolve("inn/one", tmp_path)


def test_variables_of_a_fresh_process(hub: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_HUB_CACHE work as users set them, and importing the module imports no huggingface-hub."""
    program = (
        "import sys; from gateway.models.hub import resolve_model; assert 'huggingface_hub' not in sys.modules;"
        "print(resolve_model('inn/one', cache_dir=None, progress=lambda fraction, stage: None))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path)}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == b"GGUF"
    assert tmp_path in Path(done.stdout.strip()).parents
    assert done.stderr == ""
