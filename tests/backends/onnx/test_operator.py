"""The operator `QuantizedLinear` by itself: what it computes, what it refuses, and where its weights lie."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from backends.api import F32
from backends.errors import ModelError
from backends.kernels.library import KernelsUnavailable, Library, load_library
from backends.kernels.linear import Linear
from backends.onnx.graph import HOSTELRY, Graph
from backends.onnx.session import open_session, share_arrays
from backends.weights.formats import FORMATS
from tests.backends.onnx.drive import CPU

ROWS, COLUMNS = 96, 256
TOLERANCE = 2e-2
"""Relative; activations are rounded to int8."""


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return load_library()
    except KernelsUnavailable as error:
        pytest.skip(str(error))


class Operator:
    """A session of one operator, the tiles that it reads and the values that these stand for."""

    def __init__(
        self,
        library: Library,
        *,
        seed: int = 0,
        name: str = "Q8_0",
        packed: npt.NDArray[np.uint8] | None = None,
        changes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        form = FORMATS[name]
        rng = np.random.default_rng(seed)
        blocks = form.encode(rng.standard_normal((ROWS, COLUMNS), dtype=np.float32))
        self.values = form.decode(blocks)
        self.bias = rng.standard_normal(ROWS, dtype=np.float32)
        self.tiles = packed_by(library, form.ggml_type, blocks)
        attributes = {"format": form.ggml_type, "rows": ROWS, "columns": COLUMNS, "activation": 0}
        attributes |= {"adapter": -1, "part_0": 0, "part_1": 0, "part_2": 0} | dict(changes)
        graph = Graph()
        inputs = [graph.input("x", ["T", "K"]), graph.share("packed", self.tiles if packed is None else packed)]
        inputs += [graph.constant("bias", self.bias), graph.input("residual", ["T", "N"])]
        graph.named("QuantizedLinear", inputs, [graph.output("y", ["T", "N"])], domain=HOSTELRY, **attributes)
        self._shared = share_arrays(graph)
        self.session = open_session(graph, CPU, threads=2, shared=self._shared, library=library.path)

    def run(self, x: F32, residual: F32) -> F32:
        y: F32 = self.session.run(["y"], {"x": x, "residual": residual})[0]
        return y


def packed_by(library: Library, ggml_type: int, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    tiles = library.pack(ggml_type, ROWS, COLUMNS, blocks)
    assert tiles is not None
    return tiles


def silu(x: F32) -> F32:
    return np.asarray(x / (1 + np.exp(-x)), np.float32)


def gelu_tanh(x: F32) -> F32:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), np.float32)


def error_of(made: F32, expected: F32) -> float:
    return float(np.linalg.norm(made - expected) / (np.linalg.norm(expected) + 1e-9))


@pytest.mark.parametrize("num_rows", [0, 1, 3, 70])
def test_product_bias_and_residual(library: Library, num_rows: int) -> None:
    """Any number of rows of x, none included."""
    rng = np.random.default_rng(1)
    x, residual = (rng.standard_normal((num_rows, size), dtype=np.float32) for size in (COLUMNS, ROWS))
    operator = Operator(library)

    made = operator.run(x, residual)

    assert made.shape == (num_rows, ROWS)
    assert error_of(made, x @ operator.values.T + operator.bias + residual) < TOLERANCE


@pytest.mark.parametrize(("activation", "function"), [(1, silu), (2, gelu_tanh)])
def test_gated_activations(library: Library, activation: int, function: Callable[[F32], F32]) -> None:
    """Rows alternate in turns of 16: the gate, and what it gates."""
    rng = np.random.default_rng(2)
    x, residual = (rng.standard_normal((5, size), dtype=np.float32) for size in (COLUMNS, ROWS // 2))
    operator = Operator(library, changes={"activation": activation})

    made = operator.run(x, residual)

    turns = (x @ operator.values.T + operator.bias).reshape(5, -1, 2, 16)
    assert error_of(made, (function(turns[:, :, 0]) * turns[:, :, 1]).reshape(5, -1) + residual) < TOLERANCE


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
def test_the_bits_are_those_of_the_library(library: Library, name: str) -> None:
    """The bits are those of the library, whatever block of activations a format takes."""
    x, residual = (np.random.default_rng(3).standard_normal((9, size), dtype=np.float32) for size in (COLUMNS, ROWS))
    operator = Operator(library, name=name)
    linear = Linear(
        library=library, ggml_type=FORMATS[name].ggml_type, rows=ROWS, columns=COLUMNS, packed=operator.tiles
    )

    made = operator.run(x, residual)

    assert np.array_equal(made, linear.multiply(x, bias=operator.bias, residual=residual))


def test_weights_are_read_where_they_lie(library: Library) -> None:
    """No copy: what happens to the tiles happens to the product."""
    x, nothing = np.ones((1, COLUMNS), np.float32), np.zeros((1, ROWS), np.float32)
    operator = Operator(library)
    before = operator.run(x, nothing)

    operator.tiles[:] = 0

    assert not np.allclose(before, operator.bias)
    np.testing.assert_allclose(operator.run(x, nothing)[0], operator.bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "those of no matrix"),
        ({"format": 2**40 + 8}, "those of no matrix"),
        ({"columns": COLUMNS + 1}, "those of no matrix"),
        ({"rows": 0}, "those of no matrix"),
        ({"rows": 2**62}, "those of no matrix"),
        ({"rows": ROWS + 16}, "wrong size"),
        ({"activation": 3}, "activation"),
        ({"activation": -1}, "activation"),
    ],
)
def test_a_node_that_makes_no_sense_is_refused_at_load(library: Library, changes: dict[str, int], message: str) -> None:
    """Nothing is allocated or read for it."""
    with pytest.raises(ModelError, match=message):
        Operator(library, changes=changes)


def test_weights_of_the_wrong_size_are_refused_at_load(library: Library) -> None:
    """Never a read beyond the tiles."""
    with pytest.raises(ModelError, match="wrong size"):
        Operator(library, packed=np.zeros(64, np.uint8))


def test_misaligned_weights_are_refused_at_load(library: Library) -> None:
    """Kernels load whole cache lines."""
    size = Operator(library).tiles.nbytes
    room = np.zeros(size + 128, np.uint8)
    start = -room.ctypes.data % 64 + 1

    with pytest.raises(ModelError, match="aligned to 64 bytes"):
        Operator(library, packed=room[start : start + size])


@pytest.mark.parametrize(
    ("x", "residual", "message"),
    [((2, COLUMNS - 32), (2, ROWS), "columns"), ((2, COLUMNS), (3, ROWS), "residual has the wrong size")],
)
def test_inputs_that_do_not_fit_fail_the_run(
    library: Library, x: tuple[int, int], residual: tuple[int, int], message: str
) -> None:
    """An error of the run, and the session goes on."""
    operator = Operator(library)

    with pytest.raises(Exception, match=message):
        operator.run(np.zeros(x, np.float32), np.zeros(residual, np.float32))

    assert operator.run(np.zeros((1, COLUMNS), np.float32), np.zeros((1, ROWS), np.float32)).shape == (1, ROWS)


def test_an_onnxruntime_without_the_api_version_is_told_the_fix(library: Library) -> None:
    """`GetApi` answers NULL for a version that is not offered; the error is made with the oldest one."""
    messages: list[bytes] = []
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)
    create_status = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    version = ctypes.c_char_p(b"1.2.3")

    def create(_: int, message: bytes) -> int:
        messages.append(message)
        return 4711

    creates = create_status(create)
    tells = get_version(lambda: ctypes.cast(version, ctypes.c_void_p).value)
    oldest = (ctypes.c_void_p * 1)(ctypes.cast(creates, ctypes.c_void_p))
    asked_for: list[int] = []

    def offer(number: int) -> int | None:
        asked_for.append(number)
        return ctypes.addressof(oldest) if number == 1 else None

    offers = get_api(offer)
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(f, ctypes.c_void_p) for f in (offers, tells)))
    register = ctypes.CDLL(str(library.path)).RegisterCustomOps
    register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]

    status = register(None, ctypes.addressof(base))

    assert status == 4711
    assert asked_for == [18, 1]
    assert b"API version 18" in messages[0]
    assert b"1.2.3" in messages[0]
    assert b'pip install --upgrade "hostelry[onnx]"' in messages[0]


def test_every_session_may_register(library: Library) -> None:
    """Every session may register, also twice in one process, and with options that are gone before the session."""
    operators = [Operator(library, seed=seed) for seed in range(3)]
    ort.SessionOptions().register_custom_ops_library(str(library.path))
    x, nothing = np.ones((1, COLUMNS), np.float32), np.zeros((1, ROWS), np.float32)

    for operator in operators:
        assert error_of(operator.run(x, nothing)[0], operator.values.sum(axis=1) + operator.bias) < TOLERANCE
