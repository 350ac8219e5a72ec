"""From an opened model to a session that can run it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import onnxruntime as ort

from backends.api import LoadableModel
from backends.errors import UnsupportedModel
from backends.kernels.library import Library
from backends.models.spec import ModelSpec
from backends.onnx.embedding import Embedding
from backends.onnx.fused import HEAD_DIM_STEP
from backends.onnx.linears import FLOAT_FORMATS, Weights
from backends.onnx.providers import Provider
from backends.onnx.recorder import record
from backends.onnx.session import fallbacks_of, open_session, share_arrays
from backends.onnx.tiles import find_kernels
from backends.weights.tensor import TensorSource

_PACKING_SHARE = 0.5
"""Of the loading time; ONNX Runtime takes the rest and tells nothing."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner keeps of a model.

    `shared` is memory of the session's, `weight_bytes` are the operands given to it.
    """

    spec: ModelSpec
    provider: Provider
    session: ort.InferenceSession
    shared: dict[str, ort.OrtValue]
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
    kernels, note = _kernels(model.tensors, provider, exact=exact)
    weights = Weights(
        model.tensors, exact=exact, kernels=kernels, progress=lambda done: progress(_PACKING_SHARE * done)
    )
    graph = record(spec, weights, fused=provider.on_host)
    shared = share_arrays(graph)
    library = kernels.path if kernels else None
    session = open_session(graph, provider, threads=threads, shared=shared, library=library)
    return LoadedModel(
        spec=spec,
        provider=provider,
        session=session,
        shared=shared,
        embedding=embedding,
        weight_bytes=weights.num_bytes,
        notes=tuple(_notes(model.tensors, provider, exact=exact)) + ((note,) if kernels else ()),
        fallbacks=(*fallbacks_of(session, provider), *_untiled(weights), *((note,) if note and not kernels else ())),
    )


def _kernels(tensors: TensorSource, provider: Provider, *, exact: bool) -> tuple[Library | None, str]:
    """The kernels and a sentence about them, where they would be of use."""
    if exact or provider.device != "cpu" or not provider.on_host or not _matrices(tensors) - set(FLOAT_FORMATS):
        return None, ""
    return find_kernels()


def _untiled(weights: Weights) -> list[str]:
    if not weights.untiled:
        return []
    return [f"{len(weights.untiled)} weights make no tiles and run on MatMulNBits: {', '.join(weights.untiled)}"]


def _matrices(tensors: TensorSource) -> set[str]:
    return {tensor.format for tensor in tensors.values() if len(tensor.shape) > 1}


def _notes(tensors: TensorSource, provider: Provider, *, exact: bool) -> list[str]:
    matrices = _matrices(tensors)
    notes = []
    if provider.device != "cpu":
        notes.append(f"{provider.device} was not verified on such hardware yet")
    if exact and matrices - set(FLOAT_FORMATS):
        notes.append("exact: quantized weights are computed as float32; slow and large, a reference")
    halves = sorted(matrices & {"F16", "BF16"})
    if halves:
        notes.append(f"{' and '.join(halves)} weights are computed as float32 and take twice their size in the file")
    return notes
