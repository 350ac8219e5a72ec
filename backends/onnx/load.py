"""From an opened model to a session that can run it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import onnxruntime as ort

from backends.api import LoadableModel
from backends.errors import UnsupportedModel
from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.onnx.embedding import Embedding
from backends.onnx.graph import Recorder
from backends.onnx.linears import Weights
from backends.onnx.session import open_session
from backends.weights.tensor import TensorSource

_PACKING_SHARE = 0.5
"""Of the loading time; ONNX Runtime takes the rest and tells nothing."""
_HEAD_DIM_STEP = 16
"""`GroupQueryAttention` on the CPU rotates only heads whose size is a multiple of this."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner keeps of a model. `weight_bytes` are the operands given to the session."""

    spec: ModelSpec
    session: ort.InferenceSession
    embedding: Embedding
    weight_bytes: int
    notes: tuple[str, ...]


def load_model(model: LoadableModel, *, threads: int, exact: bool, progress: Callable[[float], None]) -> LoadedModel:
    """Record the graph, pack the weights, open the session. Raises `ModelError`, mostly `UnsupportedModel`."""
    spec = model.spec
    if spec.head_dim % _HEAD_DIM_STEP:
        raise UnsupportedModel(f"head_dim is {spec.head_dim}; the onnx runner takes multiples of {_HEAD_DIM_STEP}")
    embedding = Embedding(model.tensors["embed"])
    weights = Weights(model.tensors, exact=exact, progress=lambda done: progress(_PACKING_SHARE * done))
    recorder = Recorder(spec, weights)
    logits = forward(spec, recorder)
    session = open_session(recorder.model(logits), recorder.initializers, threads=threads)
    return LoadedModel(
        spec=spec,
        session=session,
        embedding=embedding,
        weight_bytes=weights.num_bytes,
        notes=tuple(_notes(model.tensors, exact=exact)),
    )


def _notes(tensors: TensorSource, *, exact: bool) -> list[str]:
    matrices = {tensor.format for tensor in tensors.values() if len(tensor.shape) > 1}
    notes = []
    if exact and matrices - {"F32", "F16", "BF16"}:
        notes.append("exact: quantized weights are computed as float32; slow and large, a reference")
    halves = sorted(matrices & {"F16", "BF16"})
    if halves:
        notes.append(f"{' and '.join(halves)} weights are computed as float32 and take twice their size in the file")
    return notes
