"""Opens an ONNX Runtime session on the CPU with the weights beside the graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from backends.onnx.failures import load_errors

_ERRORS_ONLY = 3
_SPIN_US = "20"
"""How long idle threads of a running step spin. The default (about a millisecond) doubles the time of a step when the
cores are shared, as they are with the gateway's event loop; on idle cores it gains 3 to 20 % at one row."""


def open_session(
    model: onnx.ModelProto, initializers: dict[str, npt.NDArray[np.generic]], *, threads: int
) -> ort.InferenceSession:
    """A session with `threads` threads, whose large initializers are the given arrays; it copies them.

    Raises `ModelError` when the graph is refused.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    with load_errors():
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in initializers.values()]
        options.add_external_initializers(list(initializers), values)
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
