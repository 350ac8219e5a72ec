"""Opens an ONNX Runtime session on the CPU with the weights beside the graph."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from backends.errors import ModelError

_ERRORS_ONLY = 3


def open_session(
    model: onnx.ModelProto, initializers: dict[str, npt.NDArray[np.generic]], *, threads: int
) -> ort.InferenceSession:
    """A session whose large initializers are the given arrays, uncopied until ONNX Runtime packs them.

    `threads=0` takes one a physical core. Raises `ModelError` when the graph is refused.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in initializers.values()]
    options.add_external_initializers(list(initializers), values)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen unrelated types
        raise ModelError(f"onnxruntime refused the graph: {error}") from error
    return session
