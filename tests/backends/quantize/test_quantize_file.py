"""Whole models through the quantizer, against the same done by hand and against the gguf package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from backends.errors import ModelError
from backends.loading import open_model
from backends.models.spec import RopeScaling
from backends.quantize import quantize_file
from backends.quantize.recipes import RECIPES
from backends.testing.models import FAMILY_NAMES, FamilyName, ModelSizes, make_random_model, write_gguf_of
from backends.testing.oracle import Oracle
from backends.weights.formats import FORMATS
from backends.weights.gguf import read_gguf, read_metadata
from backends.weights.gguf.writer import GgufWriter, Kind, TensorEntry, scalar
from backends.weights.tensor import StoredTensor, decode
from tests.backends.quantize.conftest import SIZES

SMALL = ModelSizes(
    num_layers=2, hidden_size=64, ffn_size=96, num_heads=4, num_kv_heads=2, vocab_size=300, window=8, num_experts=2
)
PROMPT = [5, 77, 200, 12, 9, 45, 101, 260, 33, 2]


def by_hand(values: npt.NDArray[np.float32], format_name: str) -> npt.NDArray[np.float32]:
    form = FORMATS[format_name]
    return form.decode(form.encode(values))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_is_what_quantizing_by_hand_gives(tmp_path: Path, family: FamilyName) -> None:
    """Tensors are exactly the folder's, quantized; so are the logits. Order of rows and stacking change nothing."""
    folder = make_random_model(tmp_path / family, sizes=SMALL, family=family)

    quantize_file(folder, tmp_path / "q.gguf", format="Q8_0")

    ours, theirs = open_model(tmp_path / "q.gguf"), open_model(folder)
    tensors = {name: _quantized(tensor, "Q8_0") for name, tensor in theirs.tensors.items()}
    assert ours.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert np.array_equal(decode(ours.tensors[name]), decode(tensor)), name
    expected = Oracle(type(theirs)(spec=theirs.spec, tensors=tensors)).logits(PROMPT)
    assert np.allclose(Oracle(ours).logits(PROMPT), expected, atol=1e-4)  # the spec went through float32


def _quantized(tensor: StoredTensor, format_name: str) -> StoredTensor:
    if len(tensor.shape) == 1 or tensor.name.endswith("router"):
        return tensor
    data = FORMATS[format_name].encode(decode(tensor))
    return StoredTensor(tensor.name, format_name, tensor.shape, data)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_folders_become_what_the_gguf_package_writes(tmp_path: Path, family: FamilyName) -> None:
    """Tensors under the same names with the same bytes, and a file that opens to the same spec."""
    folder = make_random_model(tmp_path / family, sizes=SMALL, family=family)
    reference = write_gguf_of(folder, tmp_path / "theirs.gguf", "F32")

    quantize_file(folder, tmp_path / "ours.gguf", format="F32")

    ours = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "ours.gguf").tensors}
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(reference).tensors}
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape.tolist() == tensor.shape.tolist(), name
        assert ours[name].data.tobytes() == tensor.data.tobytes(), name
    assert open_model(tmp_path / "ours.gguf").spec == open_model(reference).spec


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling(kind="linear", factor=4.0),
        RopeScaling(kind="llama3", factor=8.0),
        RopeScaling(kind="factors", factors=tuple(1 + i / 8 for i in range(32)), attention_factor=1.25),
    ],
    ids=["linear", "llama3", "longrope"],
)
def test_rope_scaling_is_kept(tmp_path: Path, scaling: RopeScaling) -> None:
    """The written file has the rotary embedding of the folder, and its context."""
    family: FamilyName = "phi3" if scaling.kind == "factors" else "llama"
    folder = make_random_model(tmp_path / "m", sizes=SIZES, family=family, rope_scaling=scaling)

    quantize_file(folder, tmp_path / "q.gguf", format="F16")

    ours, theirs = open_model(tmp_path / "q.gguf").spec, open_model(folder).spec
    assert ours.max_context == theirs.max_context
    assert ours.rope_scaling is not None
    assert theirs.rope_scaling is not None
    assert ours.rope_scaling.kind == theirs.rope_scaling.kind
    assert np.allclose(ours.rope_scaling.factors, theirs.rope_scaling.factors, rtol=1e-6)
    assert np.isclose(ours.rope_scaling.attention_factor, theirs.rope_scaling.attention_factor, rtol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_sound_file(tmp_path: Path, name: str) -> None:
    """Formats are those of the report, and the gguf package sees the same tensors."""
    sizes = ModelSizes(num_layers=1, hidden_size=256, ffn_size=256, num_heads=4, num_kv_heads=2, vocab_size=300)
    folder = make_random_model(tmp_path / "model", sizes=sizes)
    importance = None
    if name == "Q2_K_S":
        importance = write_importance(
            tmp_path / "i.gguf", read_gguf(write_gguf_of(folder, tmp_path / "s.gguf")).tensors
        )

    report = quantize_file(folder, tmp_path / "q.gguf", format=name, importance=importance)

    tensors = read_gguf(tmp_path / "q.gguf").tensors
    assert {tensor.name: tensor.format for tensor in report.tensors} == {
        name: tensor.format for name, tensor in tensors.items()
    }
    assert report.num_bytes == sum(tensor.data.nbytes for tensor in tensors.values())
    assert read_metadata(tmp_path / "q.gguf").get("general.file_type") == RECIPES[name].file_type
    if name != "Q8_1":  # the package counts 40 bytes a block, ggml.h 36
        assert [tensor.name for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors] == list(tensors)


def write_importance(path: Path, tensors: dict[str, StoredTensor], scale: float = 1.0) -> Path:
    """An importance matrix in the newer form: column j counts j + 1, with a count of 2."""
    entries: dict[TensorEntry, npt.NDArray[np.float32]] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) > 1 and name.startswith("blk."):
            columns = int(tensor.shape[-1] * scale)
            sums = 2 * np.arange(1, columns + 1, dtype=np.float32)[None]
            entries[TensorEntry(f"{name}.in_sum2", "F32", (1, columns))] = sums
            entries[TensorEntry(f"{name}.counts", "F32", (1, 1))] = np.full((1, 1), 2, np.float32)
    with path.open("wb") as file:
        writer = GgufWriter(file, metadata={"general.type": scalar(Kind.STRING, "imatrix")}, tensors=list(entries))
        writer.write_head()
        for values in entries.values():
            writer.write_rows(values.view(np.uint8))
        writer.finish()
    return path


def test_importance_reaches_the_encoder(tmp_path: Path, gguf_file: Path) -> None:
    """Each matrix is encoded with its own row of importance, and the file says where it came from."""
    importance = write_importance(tmp_path / "i.gguf", read_gguf(gguf_file).tensors)

    report = quantize_file(gguf_file, tmp_path / "q.gguf", format="Q4_K", importance=importance)

    source, made = read_gguf(gguf_file).tensors, read_gguf(tmp_path / "q.gguf")
    name = "blk.1.ffn_up.weight"
    weights = np.arange(1, 257, dtype=np.float32)
    assert np.array_equal(made.tensors[name].data, FORMATS["Q4_K"].encode(decode(source[name]), weights))
    assert made.metadata["quantize.imatrix.file"] == "i.gguf"
    assert any("token_embd.weight" in note and "no importance" in note for note in report.notes)


def test_importance_of_another_model_is_refused(tmp_path: Path, gguf_file: Path) -> None:
    """Numbers that belong to other columns would do harm unseen."""
    importance = write_importance(tmp_path / "i.gguf", read_gguf(gguf_file).tensors, scale=0.5)

    with pytest.raises(ModelError, match=r"measured on another model"):
        quantize_file(gguf_file, tmp_path / "q.gguf", format="Q4_K", importance=importance)
    assert not (tmp_path / "q.gguf").exists()


def test_gguf_sources_keep_their_metadata(tmp_path: Path, gguf_file: Path) -> None:
    """Every pair and its type, but for the file type; formats that stay are copied as bytes."""
    quantize_file(gguf_file, tmp_path / "q8.gguf", format="Q8_0", pure=True)
    quantize_file(tmp_path / "q8.gguf", tmp_path / "again.gguf", format="Q8_0", pure=True)

    fields = [gguf.GGUFReader(path).fields for path in (gguf_file, tmp_path / "q8.gguf")]
    changed = {"general.file_type", "general.quantization_version"}
    kept = [key for key in fields[0] if not key.startswith("GGUF.") and key not in changed]
    assert all(fields[0][key].types == fields[1][key].types for key in kept)
    assert all(fields[0][key].contents() == fields[1][key].contents() for key in kept)
    assert fields[1]["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q8_0
    assert (tmp_path / "q8.gguf").read_bytes() == (tmp_path / "again.gguf").read_bytes()


def test_quantizing_twice_is_said(tmp_path: Path, gguf_file: Path) -> None:
    """Losses add up, which an operator should know."""
    quantize_file(gguf_file, tmp_path / "q8.gguf", format="Q8_0")

    report = quantize_file(tmp_path / "q8.gguf", tmp_path / "q4.gguf", format="Q4_0")

    assert any("losses" in note and "Q8_0" in note for note in report.notes)


def test_fallbacks_are_said(tmp_path: Path) -> None:
    """Rows of 64 cannot be Q4_K; the report names tensors, format and width."""
    folder = make_random_model(tmp_path / "m", sizes=SMALL)

    report = quantize_file(folder, tmp_path / "q.gguf", format="Q4_K_M")

    assert any("Q5_0 instead of Q4_K" in note and "64" in note for note in report.notes)
    assert {tensor.format for tensor in report.tensors} == {"Q5_0", "Q8_0", "F32"}


def test_a_value_beyond_the_range_names_the_tensor(tmp_path: Path) -> None:
    """BF16 reaches further than F16; an infinity is never written."""
    folder = make_random_model(tmp_path / "m", sizes=SMALL)
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-4:] = np.array([1e9], np.float32).tobytes()
    path.write_bytes(raw)

    with pytest.raises(ModelError, match=r"tensor 'blk\.1\.ffn_down\.weight'.*F16"):
        quantize_file(folder, tmp_path / "q.gguf", format="F16")
    assert list(tmp_path.glob("*q.gguf*")) == []
    assert list(tmp_path.glob(".*")) == []


def test_progress_rises_to_one(tmp_path: Path, folder: Path) -> None:
    """Progress starts at 0, never falls, ends at 1 and names tensors."""
    seen: list[tuple[float, str]] = []

    quantize_file(folder, tmp_path / "q.gguf", format="Q8_0", progress=lambda *step: seen.append(step))

    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert seen[0][1] == "token_embd.weight"


_MEASURE = """
import resource, sys
from pathlib import Path
from backends.quantize import quantize_file
source, destination, small = map(Path, sys.argv[1:])
quantize_file(small, destination, format="Q8_0", threads=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
quantize_file(source, destination, format="Q8_0", threads=1, overwrite=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_memory_does_not_grow_with_the_model(tmp_path: Path, folder: Path) -> None:
    """The peak of the whole process stays below the largest tensor three times over, mapped pages included."""
    sizes = ModelSizes(num_layers=2, hidden_size=1024, ffn_size=2048, num_heads=8, num_kv_heads=8, vocab_size=16384)
    large = make_random_model(tmp_path / "large", sizes=sizes)
    command = [sys.executable, "-c", _MEASURE, str(large), str(tmp_path / "q.gguf"), str(folder)]

    grown = int(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)

    largest = 16384 * 1024 * 4
    assert (large / "model.safetensors").stat().st_size > 3 * largest
    assert grown < 3 * largest
