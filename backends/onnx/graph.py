"""Builds one ONNX graph node by node. Values are names; large arrays are stored next to the graph, not inside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

_OPSET, _IR_VERSION = 21, 10
_INLINE_BYTES = 1024
_ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}
MICROSOFT = "com.microsoft"
HOSTELRY = "hostelry"
"""The domain of our own operators."""

Array = npt.NDArray[np.generic]


class Graph:
    """A graph in the making. `initializers` are handed to the session together with the model, to be copied.

    Those in `shared` are not copied, and have to outlive the session.
    """

    def __init__(self) -> None:
        self.initializers: dict[str, Array] = {}
        self.shared: dict[str, Array] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._known: set[str] = set()
        self._counter = count()

    def input(self, name: str, shape: Sequence[str | int], dtype: str = "float32") -> str:
        self._inputs.append(helper.make_tensor_value_info(name, _ONNX_TYPES[dtype], shape))
        return name

    def output(self, name: str, shape: Sequence[str | int]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def node(self, kind: str, inputs: Sequence[str], *, domain: str = "", **attributes: object) -> str:
        """Add a node and return its only output; an empty input name is an omitted input."""
        return self.nodes(kind, inputs, 1, domain=domain, **attributes)[0]

    def nodes(
        self, kind: str, inputs: Sequence[str], outputs: int, *, domain: str = "", **attributes: object
    ) -> list[str]:
        """Add one node and return its outputs."""
        names = [f"{kind}_{next(self._counter)}" for _ in range(outputs)]
        self.named(kind, inputs, names, domain=domain, **attributes)
        return names

    def named(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "", **attributes: object
    ) -> None:
        """Add a node with outputs named by the caller; an empty name is an unused output."""
        self._nodes.append(helper.make_node(kind, list(inputs), list(outputs), None, None, domain, None, **attributes))

    def ints(self, *values: int) -> str:
        """A constant int64 vector: shapes, axes, sizes."""
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(f"number_{value!r}", np.array(value, np.float32))

    def constant(self, name: str, array: Array) -> str:
        """An array under a name; the first one of that name counts."""
        if name in self._known:
            return name
        self._known.add(name)
        if array.nbytes <= _INLINE_BYTES:
            self._tensors.append(onnx.numpy_helper.from_array(array, name))
            return name
        tensor = TensorProto(name=name, data_type=_ONNX_TYPES[array.dtype.name], dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "memory"), ("offset", "0"), ("length", str(array.nbytes))):
            tensor.external_data.add(key=key, value=value)
        self._tensors.append(tensor)
        self.initializers[name] = array
        return name

    def share(self, name: str, array: Array) -> str:
        """A constant that the session reads where it lies.

        A placeholder stands in the graph, its name in bytes: as an external initializer it would be copied first.
        """
        self.shared[name] = array
        placeholder = np.frombuffer(name.encode(), np.uint8)
        self._tensors.append(onnx.numpy_helper.from_array(placeholder, name))
        return name

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "decoder", self._inputs, self._outputs, self._tensors)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        if any(node.domain == HOSTELRY for node in self._nodes):
            opsets.append(helper.make_opsetid(HOSTELRY, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
