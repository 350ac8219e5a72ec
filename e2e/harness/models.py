"""The models of a run, built from its nonce; nothing is downloaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from e2e.harness.nonce import SEED, rng


def demo_model() -> Path:
    """The bundled model, as shipped."""
    from gateway.demo import model_path

    return model_path()


def big_model(folder: Path) -> Path:
    """The bundled model grown to 107 M float32 parameters; it still says the same."""
    from tools.demo_model.checkpoint import write_folder
    from tools.demo_model.expand import Growth, expand
    from tools.demo_model.export import read_gguf

    growth = Growth(hidden=1024, layers=9, ffn=2816, heads_factor=4)
    write_folder(expand(read_gguf(demo_model()), growth, seed=SEED), folder)
    return folder


def random_model(folder: Path) -> Path:
    """A small Llama of random float32 weights, as a Hugging Face folder."""
    from backends.testing.models import make_random_model

    return make_random_model(folder, seed=SEED)


def random_gguf(folder: Path, path: Path) -> Path:
    """The same weights as a float32 GGUF file, written by the gguf package."""
    from backends.testing.models import write_gguf_of

    return write_gguf_of(folder, path, "F32")


def with_zeroed_gguf_tensor(source: Path, target: Path, name: str) -> Path:
    """A copy in which every byte of one tensor is 0."""
    shutil.copyfile(source, target)
    reader = gguf.GGUFReader(target, "r+")
    (tensor,) = (tensor for tensor in reader.tensors if tensor.name == name)
    tensor.data[:] = 0
    reader.data.flush()
    return target


def with_zeroed_folder_tensor(source: Path, target: Path) -> tuple[Path, str]:
    """A copy of a folder in which one matrix, drawn by the nonce, is 0; and the name of that matrix."""
    shutil.copytree(source, target)
    (file,) = target.glob("*.safetensors")
    weights = load_file(file)
    matrices = sorted(name for name, array in weights.items() if array.ndim == 2 and ".layers." in name)
    name = rng("zeroed tensor").choice(matrices)
    weights[name] = np.zeros_like(weights[name])
    save_file(weights, file, metadata={"format": "pt"})
    return target, name


def truncated(source: Path, target: Path, *, keep: float) -> tuple[Path, list[str]]:
    """The first part of a GGUF or safetensors file, and the names of the tensors that are cut or gone."""
    size = source.stat().st_size
    cut = int(size * keep)
    ends = _gguf_ends(source) if source.suffix == ".gguf" else _safetensors_ends(source)
    lost = [name for name, end in ends.items() if end > cut]
    assert lost, f"cutting {source.name} at {cut} loses no tensor"
    with source.open("rb") as whole:
        target.write_bytes(whole.read(cut))
    return target, lost


def _gguf_ends(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_offset + tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors}


def _safetensors_ends(path: Path) -> dict[str, int]:
    """End of each tensor. The format keeps (name, start, end) in a JSON header behind an 8-byte length."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    with safe_open(path, "np") as opened:
        names = opened.keys()
    return {name: 8 + length + header[name]["data_offsets"][1] for name in names}
