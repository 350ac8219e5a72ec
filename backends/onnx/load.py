"""From an opened model to a session that can run it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import onnxruntime as ort

from backends.api import LoadableModel
from backends.errors import UnsupportedModel
from backends.models.spec import ModelSpec
from backends.onnx.embedding import Embedding
from backends.onnx.fused import HEAD_DIM_STEP
from backends.onnx.linears import Weights
from backends.onnx.providers import Provider
from backends.onnx.recorder import record
from backends.onnx.session import fallbacks_of, open_session
from backends.weights.tensor import TensorSource

_PACKING_SHARE = 0.5
"""Of the loading time; ONNX Runtime takes the rest and tells nothing."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner keeps of a model. `weight_bytes` are the operands given to the session."""

    spec: ModelSpec
    provider: Provider
    session: ort.InferenceSession
    embedding: Embedding
    weight_bytes: int
    notes: tuple[str, ...]
    fallbacks: tuple[str, ...]


def load_model(
    model: LoadableModel, provider: Provider, *, threads: int, exact: bool, progress: Callable[[float], None]
) -> LoadedModel:
    """Record the graph, pack the weights, open the session. Raises `ModelError`, mostly `UnsupportedModel`."""
    spec = model.spec
    if provider.on_host and spec.head_dim % HEAD_DIM_STEP:
        raise UnsupportedModel(f"head_dim is {spec.head_dim}; the onnx runner takes multiples of {HEAD_DIM_STEP}")
    embedding = Embedding(model.tensors["embed"])
    weights = Weights(model.tensors, exact=exact, progress=lambda done: progress(_PACKING_SHARE * done))
    session = open_session(record(spec, weights, fused=provider.on_host), provider, threads=threads)
    return LoadedModel(
        spec=spec,
        provider=provider,
        session=session,
        embedding=embedding,
        weight_bytes=weights.num_bytes,
        notes=tuple(_notes(model.tensors, provider, exact=exact)),
        fallbacks=tuple(fallbacks_of(session, provider)),
    )


def _notes(tensors: TensorSource, provider: Provider, *, exact: bool) -> list[str]:
    matrices = {tensor.format for tensor in tensors.values() if len(tensor.shape) > 1}
    notes = []
    if provider.device != "cpu":
        notes.append(f"{provider.device} was not verified on such hardware yet")
    if exact and matrices - {"F32", "F16", "BF16"}:
        notes.append("exact: quantized weights are computed as float32; slow and large, a reference")
    halves = sorted(matrices & {"F16", "BF16"})
    if halves:
        notes.append(f"{' and '.join(halves)} weights are computed as float32 and take twice their size in the file")
    return notes
