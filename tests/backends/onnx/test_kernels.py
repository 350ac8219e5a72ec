"""The runner on Hostelry's kernels: every format and level, what falls back, and that all of it is said."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from backends.api import F32, LoadableModel
from backends.kernels.library import KernelsUnavailable, Library, load_library
from backends.loading import open_model
from backends.models.spec import ModelSpec
from backends.onnx import create_runner
from backends.onnx import weights as tiles
from backends.onnx.attention.group_query import FusedAttention
from backends.onnx.graph import Graph
from backends.onnx.recorder import Recorder, record
from backends.onnx.session import open_session, share_arrays
from backends.onnx.weights import FORMATS, OnnxWeights, find_kernels
from backends.testing.models import FamilyName, ModelSizes, make_random_model, write_gguf_of
from backends.testing.oracle import Oracle
from backends.weights.formats import FORMATS as STORED
from backends.weights.integers import SPLITTERS
from backends.weights.tensor import StoredTensor, decode
from tests.backends.onnx.drive import CPU, Part, make_runner, run
from tests.backends.onnx.test_formats import random_tensor

TOKENS = [11, 200, 45, 301, 7, 93, 128, 64, 5, 77]
TOLERANCE = 3e-2


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return load_library()
    except KernelsUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def quantized_path(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf_of(folder, tmp_path_factory.mktemp("kernels") / "model.gguf", "Q4_0")


@pytest.fixture(scope="module")
def quantized(quantized_path: Path) -> LoadableModel:
    return open_model(quantized_path)


def notes_of(model: LoadableModel, *, exact: bool = False) -> str:
    info = create_runner(threads=1, exact=exact).load(model, lambda _: None)
    return "\n".join((*info.notes, *info.fallbacks))


def operators_of(model: LoadableModel, library: Library | None) -> dict[str, int]:
    weights = OnnxWeights(model.tensors, exact=False, kernels=library, progress=lambda _: None)
    nodes = [node.op_type for node in record(model.spec, weights, FusedAttention).model().graph.node]
    return {kind: nodes.count(kind) for kind in set(nodes)}


def error_of(model: LoadableModel) -> float:
    logits = run(make_runner(model), Part(0, TOKENS, rows=len(TOKENS)))
    expected = Oracle(model).logits(TOKENS)
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


class NoAttention(FusedAttention):
    """Stand-in for attention in a graph of linears alone."""

    def __init__(self, spec: ModelSpec, graph: Graph) -> None:
        pass


def product_of(spec: ModelSpec, tensor: StoredTensor, x: F32, library: Library | None) -> F32:
    """Product by the operator of the kernels, or without them by `MatMulNBits`."""
    weights = OnnxWeights({"w": tensor}, exact=False, kernels=library, progress=lambda _: None)
    recorder = Recorder(spec, weights, NoAttention, None)
    graph, y = recorder.graph, recorder.product("embedded", ("w",))
    graph.named("Identity", [y], [graph.output("y", ["T", tensor.shape[0]])])
    shared = share_arrays(graph)
    session = open_session(graph, CPU, threads=1, shared=shared, library=None if library is None else library.path)
    made: F32 = session.run(["y"], {"embedded": x, "sel": np.zeros(0, np.int64)})[0]
    return made


def test_every_linear_is_one_operator(library: Library, quantized: LoadableModel) -> None:
    """q, k and v in one, gate and up in one with their activation, and nothing else around them."""
    operators = operators_of(quantized, library)

    assert operators["QuantizedLinear"] == 4 * quantized.spec.num_layers + 1
    assert not operators.keys() & {"MatMulNBits", "QuickGelu", "Split", "Gemm"}


@pytest.mark.parametrize("name", SPLITTERS)
def test_every_format(library: Library, model: LoadableModel, name: str) -> None:
    """Formats work together and with float ones; as merged products, alone, and as head."""
    stored = dict(model.tensors)
    for target in ("embed", "layers.0.v", "layers.1.down", "layers.2.gate", "layers.2.up", "layers.3.o", "head"):
        rows, columns = stored[target].shape
        random = random_tensor(name, rows=rows, columns=columns, seed=5)
        stored[target] = StoredTensor(target, name, (rows, columns), random.data)
    mixed = LoadableModel(spec=model.spec, tensors=stored)

    assert operators_of(mixed, library).get("QuantizedLinear") == 5
    assert error_of(mixed) < TOLERANCE


@pytest.mark.parametrize("name", SPLITTERS)
def test_products_are_as_near_as_those_without(library: Library, model: LoadableModel, name: str) -> None:
    """Products are as near to those of float32 activations as the products without kernels, also with outliers. The
    sums alone are rounded otherwise.
    """
    rng, form = np.random.default_rng(6), STORED[name]
    tensor = StoredTensor("w", name, (256, 1024), form.encode(rng.standard_normal((256, 1024), dtype=np.float32)))
    x = rng.standard_normal((64, 1024), dtype=np.float32)
    x[rng.random(x.shape) < 0.01] *= 20

    ours, theirs = (
        product_of(msgspec.structs.replace(model.spec, hidden_size=1024), tensor, x, kernels)
        for kernels in (library, None)
    )

    expected = x @ decode(tensor).T
    assert np.linalg.norm(ours - expected) <= 1.0001 * np.linalg.norm(theirs - expected)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gemma3", "olmo2", "phi3", "mixtral"])
def test_families(library: Library, family: FamilyName, tmp_path: Path) -> None:
    """Biases, both activations, norms of all kinds, long rotary embeddings, experts."""
    sizes = ModelSizes(num_layers=2, hidden_size=64, ffn_size=96, num_heads=4, num_kv_heads=2, head_dim=16, window=5)
    folder = make_random_model(tmp_path / family, sizes=sizes, seed=4, family=family)
    model = open_model(write_gguf_of(folder, tmp_path / "model.gguf", "Q8_0"))

    assert "MatMulNBits" not in operators_of(model, library)
    assert error_of(model) < TOLERANCE


@pytest.mark.parametrize("ffn_size", [32, 40, 56])
def test_rows_that_fill_no_tile(library: Library, ffn_size: int, tmp_path: Path) -> None:
    """Gate and up that cannot take turns of 16 rows are multiplied by the graph; any number of rows is fine."""
    sizes = ModelSizes(num_layers=2, hidden_size=64, ffn_size=32, num_heads=4, num_kv_heads=2, head_dim=16)
    model = open_model(make_random_model(tmp_path / "llama", sizes=sizes))
    stored = dict(model.tensors)
    for layer in range(2):
        for name, seed in ((f"layers.{layer}.gate", 1), (f"layers.{layer}.up", 2)):
            random = random_tensor("Q8_0", rows=ffn_size, columns=64, seed=seed)
            stored[name] = StoredTensor(name, "Q8_0", (ffn_size, 64), random.data)
        name = f"layers.{layer}.down"
        values = np.random.default_rng(3).standard_normal((64, ffn_size), dtype=np.float32)
        stored[name] = StoredTensor(name, "F32", (64, ffn_size), values.view(np.uint8))
    model = LoadableModel(spec=msgspec.structs.replace(model.spec, ffn_size=ffn_size), tensors=stored)

    assert ("Split" in operators_of(model, library)) == bool(ffn_size % 16)
    assert error_of(model) < TOLERANCE


def test_what_makes_no_tiles_falls_back_by_name(
    library: Library, quantized: LoadableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named once, and right."""
    kept = tiles.pack

    def pack(library: Library, group: list[StoredTensor], *, gated: bool = False) -> tiles.Tiles | None:
        return None if group[0].name == "layers.1.down" else kept(library, group, gated=gated)

    monkeypatch.setattr("backends.onnx.weights.pack", pack)

    assert "1 weights make no tiles and run on MatMulNBits: layers.1.down" in notes_of(quantized)
    assert error_of(quantized) < TOLERANCE


def test_notes_name_the_level(library: Library, quantized: LoadableModel) -> None:
    """Notes name the kernels' level, which operators need when speed is in question."""
    assert f"run on Hostelry's kernels, level {library.level}" in notes_of(quantized)


def test_switched_off(quantized: LoadableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """MatMulNBits serves, and one note says so and why."""
    monkeypatch.setenv("HOSTELRY_KERNELS", "0")

    notes = notes_of(quantized)

    assert notes.count("MatMulNBits") == 1
    assert "HOSTELRY_KERNELS" in notes
    assert error_of(quantized) < TOLERANCE


def test_a_refused_library(quantized: LoadableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not for onnxruntime, or for another version of it, is said with onnxruntime's words."""

    class Foreign:
        path = Path(sys.executable)
        level = "none"

    monkeypatch.setattr(tiles, "load_library", Foreign)

    kernels = find_kernels()

    assert kernels.library is None
    assert "MatMulNBits" in kernels.note
    assert "onnxruntime refused" in kernels.note
    assert error_of(quantized) < TOLERANCE


def test_exact_needs_none(quantized: LoadableModel) -> None:
    """The reference path stays onnxruntime's own."""
    assert "kernels" not in notes_of(quantized, exact=True)


def test_weights_are_counted_as_tiles(library: Library, quantized: LoadableModel) -> None:
    """Weights count as many bytes as the file has, and a little: not the five bits of MatMulNBits."""
    info = create_runner(threads=1).load(quantized, lambda _: None)

    stored = sum(t.data.nbytes for name, t in quantized.tensors.items() if len(t.shape) == 2 and name != "embed")
    assert stored <= info.weight_bytes <= 1.1 * stored


@pytest.mark.parametrize("level", ["scalar", "avx2", "avxvnni", "avx512vnni", "neon"])
def test_every_level(library: Library, quantized_path: Path, level: str) -> None:
    """A level that is forced is used where the CPU has it; where not, nothing illegal is executed."""
    script = (
        "import sys; from pathlib import Path; from backends.loading import open_model;"
        "from backends.kernels.library import load_library; from tests.backends.onnx.test_kernels import error_of;"
        "print(load_library().level, error_of(open_model(Path(sys.argv[1]))))"
    )
    environment = os.environ | {"HOSTELRY_KERNEL_LEVEL": level, "HOSTELRY_KERNELS": "1"}

    done = subprocess.run(
        [sys.executable, "-c", script, str(quantized_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    used, error = done.stdout.split()
    assert float(error) < TOLERANCE
    assert used in {level, library.level}


def test_two_sessions_at_once(library: Library, quantized: LoadableModel) -> None:
    """Each gives the bits that it gives alone: they share code and nothing else."""
    runners = [make_runner(quantized), make_runner(quantized)]
    prompts = [TOKENS * 8, TOKENS[::-1] * 8]
    alone = [run(runner, Part(0, prompt, rows=16)) for runner, prompt in zip(runners, prompts, strict=True)]

    def repeat(index: int) -> list[np.ndarray]:
        return [run(runners[index], Part(0, prompts[index], rows=16)) for _ in range(10)]

    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(repeat, (0, 1)))

    for made, expected in zip(together, alone, strict=True):
        for logits in made:
            np.testing.assert_array_equal(logits, expected)


@pytest.mark.usefixtures("operators")
def test_declared_formats_do_not_depend_on_the_kernels() -> None:
    """A model that loads with the library loads without it."""
    assert create_runner().capabilities().formats == FORMATS
