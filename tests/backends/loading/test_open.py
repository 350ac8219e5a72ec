"""Models that `open_model` refuses, and its messages."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from backends.errors import ModelError, UnsupportedModel
from backends.loading import open_model
from tests.costs import cost_ratio

Tensors = dict[str, npt.NDArray[np.float32]]
Edit = Callable[[Tensors], None]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, edit: Edit) -> None:
    path = folder / "model.safetensors"
    tensors = {name: values.copy() for name, values in load_file(path).items()}
    edit(tensors)
    path.unlink()
    save_file(tensors, path)


def test_missing_paths_are_named(tmp_path: Path) -> None:
    """A path that does not exist is said to be missing."""
    with pytest.raises(ModelError, match="nowhere: no such file or folder"):
        open_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "folder is empty"),
        (("notes.txt",), "config.json is missing"),
        (("a.gguf", "b.gguf"), r"name the GGUF file itself, such as .*a\.gguf"),
        (("adapter_config.json", "adapter_model.safetensors"), "LoRA adapter"),
        (("config.json",), "no weights; expected model.safetensors"),
        (("config.json", "pytorch_model.bin"), r"pytorch_model\.bin: pickled weights .* convert to safetensors"),
        (("config.json", "consolidated.00.pth"), "convert to safetensors"),
        (("config.json", "weights.pt"), "convert to safetensors"),
    ],
    ids=["empty", "no config", "gguf inside", "adapter", "no weights", "bin", "pth", "pt"],
)
def test_folders_that_are_no_model_are_explained(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    """Each usual mistake gets the message that helps."""
    for name in names:
        (tmp_path / name).write_text("{}")

    with pytest.raises(ModelError, match=message):
        open_model(tmp_path)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.ckpt", "model.pth", "model.pkl", "model.gguf"])
def test_pickled_files_are_never_opened(tmp_path: Path, name: str) -> None:
    """A pickle that would write a file when loaded is refused by name or by content, and never runs."""
    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {marker}",)

    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))

    with pytest.raises(ModelError, match="pickled weights can run code"):
        open_model(tmp_path / name)
    assert not marker.exists()


def test_pickles_dressed_as_weights_are_damage(folder: Path) -> None:
    """A pickle named model.safetensors is refused like any file that is not what its name says."""
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": list(range(100))}))

    with pytest.raises(ModelError, match=r"model\.safetensors"):
        open_model(folder)


def test_other_files_are_no_model(tmp_path: Path) -> None:
    """A text file, and a safetensors file without its folder, are explained."""
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")

    with pytest.raises(ModelError, match="neither a GGUF file"):
        open_model(tmp_path / "a.txt")
    with pytest.raises(ModelError, match="name the folder that holds this file"):
        open_model(tmp_path / "b.safetensors")


def test_pipes_are_refused_instead_of_waited_for(tmp_path: Path) -> None:
    """Opening a pipe would block for ever."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ModelError, match="not a regular file"):
        open_model(tmp_path / "pipe")


_events: list[str] = []
_watching = False


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event in ("import", "exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class"):
        _events.append(f"{event} {arguments[:1]}")


def test_opening_a_folder_runs_and_writes_nothing(folder: Path) -> None:
    """Opening a folder that contains code imports and executes nothing, and opens no file for writing."""
    global _watching
    for name in ("modeling_evil.py", "evil.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text("raise SystemExit('ran')")
    open_model(folder)  # whatever our own modules import lazily is imported by now
    sys.addaudithook(_audit)
    _watching = True
    try:
        open_model(folder)
    finally:
        _watching = False

    assert _events == []


def test_folders_that_ask_for_their_own_code_are_refused(folder: Path) -> None:
    """auto_map is never obeyed and never ignored."""
    edit_config(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})

    with pytest.raises(ModelError, match="auto_map asks for code from the model folder, and that is never run"):
        open_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1', "\x00", '{"vocab_size": NaN}'])
def test_broken_configuration_files_are_named(folder: Path, text: str) -> None:
    """Broken JSON is an error that names the file."""
    (folder / "config.json").write_text(text)

    with pytest.raises(ModelError, match=r"config\.json"):
        open_model(folder)


Q0 = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"


def _drop(tensors: Tensors) -> None:
    del tensors[Q0]


def _drop_head(tensors: Tensors) -> None:
    del tensors["lm_head.weight"]


def _reshape(tensors: Tensors) -> None:
    tensors[Q0] = np.ascontiguousarray(tensors[Q0][:-1])


def _flatten(tensors: Tensors) -> None:
    tensors[Q0] = tensors[Q0].reshape(-1)


def _spoil_nan(tensors: Tensors) -> None:
    tensors[NORM][3] = np.nan


def _spoil_inf(tensors: Tensors) -> None:
    tensors[NORM][3] = np.inf


def _add(tensors: Tensors) -> None:
    tensors["model.layers.0.mlp.gate_proj.bias"] = np.zeros(96, np.float32)


def _add_layer(tensors: Tensors) -> None:
    tensors["model.layers.2.input_layernorm.weight"] = np.ones(64, np.float32)


@pytest.mark.parametrize(
    ("edit", "kind", "message"),
    [
        (_drop, ModelError, rf"'{Q0}' is missing; expected shape \[64, 64\]"),
        (_reshape, ModelError, rf"'{Q0}' has shape \[63, 64\]; the configuration implies \[64, 64\]"),
        (_flatten, ModelError, rf"'{Q0}' has shape \[4096\]"),
        (_spoil_nan, ModelError, rf"'{NORM}' holds values that are not finite"),
        (_spoil_inf, ModelError, rf"'{NORM}' holds values that are not finite"),
        (_add, UnsupportedModel, r"gate_proj\.bias' has no place"),
        (_add_layer, UnsupportedModel, r"layers\.2\.input_layernorm\.weight' has no place"),
    ],
    ids=["missing", "wrong shape", "wrong rank", "nan", "infinite", "extra bias", "extra layer"],
)
def test_tensors_that_contradict_the_configuration(
    folder: Path, edit: Edit, kind: type[ModelError], message: str
) -> None:
    """Missing, misshapen, damaged and unexplained tensors are errors that name the tensor."""
    edit_weights(folder, edit)

    with pytest.raises(kind, match=message):
        open_model(folder)


def test_harmless_tensors_are_left_out(folder: Path) -> None:
    """Stored rotary frequencies and the repeated head of a tied model do no harm."""

    def edit(tensors: Tensors) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)

    edit_weights(folder, edit)
    edit_config(folder, tie_word_embeddings=True)

    model = open_model(folder)

    assert model.spec.tied_head
    assert "head" not in model.tensors


def test_an_untied_head_must_be_there(folder: Path) -> None:
    """A configuration that promises a head needs one."""
    edit_weights(folder, _drop_head)

    with pytest.raises(ModelError, match=r"'lm_head\.weight' is missing"):
        open_model(folder)


def test_truncated_files_of_both_kinds_are_refused_fast(folder: Path, gguf_path: Path, tmp_path: Path) -> None:
    """A file truncated at any of fifty points is refused at no more than twice the cost of opening the whole file."""

    def refuse(target: Path) -> None:
        with pytest.raises(ModelError):
            open_model(target)

    sound = shutil.copytree(folder, tmp_path / "sound folder")
    sound_gguf = shutil.copyfile(gguf_path, tmp_path / "sound.gguf")
    for path, target, whole in (
        (gguf_path, gguf_path, sound_gguf),
        (folder / "model.safetensors", folder, sound),
    ):
        raw = path.read_bytes()
        for size in np.linspace(0, len(raw) - 1, 50, dtype=int):
            path.write_bytes(raw[:size])

            assert cost_ratio(partial(refuse, target), partial(open_model, whole), rounds=2) < 2


def test_damaged_gguf_headers_never_escape_the_error_tree(gguf_path: Path) -> None:
    """Random damage to the tables of a real model file gives `ModelError` or a model; nothing else."""
    whole = gguf_path.read_bytes()
    table = whole.index(b"output_norm.weight") + 400
    rng = np.random.default_rng(0)

    for _ in range(150):
        raw = bytearray(whole)
        for position in rng.integers(0, table, 3):
            raw[position] = rng.integers(0, 256)
        gguf_path.write_bytes(raw)
        try:
            model = open_model(gguf_path)
        except ModelError:
            continue
        assert sum(tensor.data.nbytes for tensor in model.tensors.values()) <= len(whole)
