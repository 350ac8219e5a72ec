"""Turns an opened model into a session that can run it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import onnxruntime as ort

from backends.api import LoadableModel
from backends.errors import UnsupportedModel
from backends.kernels.attention import MAX_HEAD_DIM
from backends.models.spec import ModelSpec
from backends.onnx.adapters import Adapters
from backends.onnx.attention.group_query import HEAD_DIM_STEP, FusedAttention
from backends.onnx.attention.hostelry_kernel import RaggedAttention
from backends.onnx.attention.portable import PlainAttention
from backends.onnx.embedding import Embedding
from backends.onnx.provider import Provider
from backends.onnx.recorder import Attention, record
from backends.onnx.session import fallbacks_of, open_session, share_arrays
from backends.onnx.weights import FLOAT_FORMATS, Kernels, OnnxWeights
from backends.weights.tensor import TensorSource

_PACKING_SHARE = 0.5
"""Part of the loading time; ONNX Runtime takes the rest and reports no progress."""


class OnnxModel(msgspec.Struct, frozen=True, kw_only=True):
    """Parts of a model that a runner keeps.

    `shared` is memory of the session's, `weight_bytes` are the operands given to it.
    """

    spec: ModelSpec
    provider: Provider
    session: ort.InferenceSession
    shared: dict[str, ort.OrtValue]
    embedding: Embedding
    attention: Attention
    adapters: Adapters | None
    is_quantized: bool
    """Computes with rounded activations anyway."""
    weight_bytes: int
    notes: tuple[str, ...]
    fallbacks: tuple[str, ...]


def load_model(
    model: LoadableModel,
    provider: Provider,
    *,
    kernels: Kernels,
    threads: int,
    exact: bool,
    progress: Callable[[float], None],
) -> OnnxModel:
    """Record the graph, pack the weights, open the session. Raises `ModelError`, mostly `UnsupportedModel`."""
    spec = model.spec
    if provider.on_host and (spec.head_dim % HEAD_DIM_STEP or spec.head_dim > MAX_HEAD_DIM):
        raise UnsupportedModel(
            f"head_dim is {spec.head_dim}; the onnx runner takes multiples of {HEAD_DIM_STEP} up to {MAX_HEAD_DIM}"
        )
    embedding = Embedding(model.tensors["embed"])
    if provider.device != "cpu" or not provider.on_host:
        kernels = Kernels()
    library = kernels.library
    weights = OnnxWeights(
        model.tensors, exact=exact, kernels=library, progress=lambda done: progress(_PACKING_SHARE * done)
    )
    attention = _attention(provider, kernels)
    adapters = Adapters(spec) if library else None
    graph = record(spec, weights, attention, adapters)
    shared = share_arrays(graph)
    session = open_session(graph, provider, threads=threads, shared=shared, library=library.path if library else None)
    return OnnxModel(
        spec=spec,
        provider=provider,
        session=session,
        shared=shared,
        embedding=embedding,
        attention=attention,
        adapters=adapters,
        is_quantized=bool(_matrices(model.tensors) - set(FLOAT_FORMATS)) and not exact,
        weight_bytes=weights.num_bytes,
        notes=(*_notes(model.tensors, provider, exact=exact), *((kernels.note,) if library else ())),
        fallbacks=(
            *fallbacks_of(session, provider),
            *_untiled(weights),
            *((kernels.note,) if kernels.note and not library else ()),
        ),
    )


def _attention(provider: Provider, kernels: Kernels) -> Attention:
    if kernels.library:
        return RaggedAttention
    return FusedAttention if provider.on_host else PlainAttention


def _untiled(weights: OnnxWeights) -> list[str]:
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
