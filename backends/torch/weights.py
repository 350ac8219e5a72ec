"""A model's weights on the device, merged where their formats agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from backends.api import LoadableModel
from backends.errors import UnsupportedModel
from backends.kernels.library import KernelsUnavailable, Library, load_library
from backends.models.shapes import Inventory
from backends.models.spec import ModelSpec
from backends.torch.blocks import BLOCK_FORMATS
from backends.torch.matrix import TorchMatrix
from backends.weights.tensor import StoredTensor, TensorSource, decode

FLOAT_FORMATS = ("F32", "F16", "BF16")


class TorchLinear:
    """Matrices side by side, one where their formats agree, and the bias if the model has one."""

    def __init__(self, parts: list[TorchMatrix], bias: Tensor | None) -> None:
        self.parts = parts
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        products = [part.product(x) for part in self.parts]
        y = products[0] if len(products) == 1 else torch.cat(products, dim=1)
        return y if self.bias is None else y.add_(self.bias)


class TorchWeights:
    """Weights that `TorchOps` looks up by canonical name.

    `exact` decodes quantized matrices now, to float32. `progress` is called with the share of the stored bytes that is
    done. Raises `UnsupportedModel` for a format that is not declared.
    """

    def __init__(
        self, model: LoadableModel, *, exact: bool, device: torch.device, progress: Callable[[float], None]
    ) -> None:
        self._tensors: TensorSource = model.tensors
        self._exact = exact
        self._device = device
        self._progress = progress
        self._kernels, self._missed = _kernels(model.tensors, device, exact=exact)
        self._bytes_stored = sum(tensor.data.nbytes for tensor in model.tensors.values())
        self._bytes_done = 0
        inventory = Inventory(model.spec)
        self.linears = {names: self._linear(names) for names in inventory.linears}
        tied = self.linears.get(("embed",))
        self.embedding = tied.parts[0] if tied else self._linear(("embed",)).parts[0]
        self.norms = {name: self._vector(name) for name in inventory.norms}
        self.head_norms = self._head_norms(model.spec)
        self.notes = tuple(_notes(model.tensors, exact=exact, kernels=self._kernels))
        self.fallbacks = (self._missed,) if self._missed else ()
        self._tensors = {}  # the file may be unmapped

    @property
    def num_bytes(self) -> int:
        """Total bytes of all matrices on the device."""
        parts = [part for linear in self.linears.values() for part in linear.parts]
        return sum(part.num_bytes for part in {*parts, self.embedding})

    def _linear(self, names: tuple[str, ...]) -> TorchLinear:
        stored = [self._stored(name) for name in names]
        agree = len({tensor.format for tensor in stored}) == 1
        groups = [stored] if agree else [[tensor] for tensor in stored]
        is_embedding = names == ("embed",)
        parts = [TorchMatrix(group, self._device, kernels=self._kernels, needs_rows=is_embedding) for group in groups]
        linear = TorchLinear(parts, self._bias(names))
        self._bytes_done += sum(self._tensors[name].data.nbytes for name in names)
        self._progress(min(1.0, self._bytes_done / self._bytes_stored))
        return linear

    def _stored(self, name: str) -> StoredTensor:
        tensor = self._tensors[name]
        if tensor.format not in BLOCK_FORMATS:
            known = ", ".join(BLOCK_FORMATS)
            raise UnsupportedModel(f"tensor {name!r} is stored as {tensor.format}; the torch runner reads {known}")
        if not self._exact or tensor.format in FLOAT_FORMATS:
            return tensor
        return StoredTensor(name, "F32", tensor.shape, decode(tensor).view(np.uint8))

    def _bias(self, names: tuple[str, ...]) -> Tensor | None:
        found = [self._vector(f"{name}.bias") for name in names if f"{name}.bias" in self._tensors]
        return torch.cat(found) if found else None

    def _vector(self, name: str) -> Tensor:
        return torch.from_numpy(decode(self._tensors[name]).copy()).to(self._device)

    def _head_norms(self, spec: ModelSpec) -> list[Tensor | None]:
        """Norms of queries, then of keys, of each layer `[heads + kv_heads, head_dim]`; None without them."""
        if not (spec.qk_norm or spec.qk_norm_whole):
            return [None] * spec.num_layers
        return [self._head_norm(spec, f"layers.{layer}") for layer in range(spec.num_layers)]

    def _head_norm(self, spec: ModelSpec, prefix: str) -> Tensor:
        q, k = self._vector(f"{prefix}.q_norm"), self._vector(f"{prefix}.k_norm")
        if spec.qk_norm_whole:
            return torch.cat((q, k)).view(-1, spec.head_dim)
        return torch.cat((q.expand(spec.num_heads, -1), k.expand(spec.num_kv_heads, -1)))


def _kernels(tensors: TensorSource, device: torch.device, *, exact: bool) -> tuple[Library | None, str]:
    """The CPU kernels where they would be of use, or why they cannot be had."""
    if exact or device.type != "cpu" or not _matrices(tensors) - set(FLOAT_FORMATS):
        return None, ""
    try:
        return load_library(), ""
    except KernelsUnavailable as error:
        return None, f"quantized weights are decoded at every use, slower than Hostelry's kernels: {error}"


def _matrices(tensors: TensorSource) -> set[str]:
    return {tensor.format for tensor in tensors.values() if len(tensor.shape) > 1}


def _notes(tensors: TensorSource, *, exact: bool, kernels: Library | None) -> list[str]:
    compact = sorted(_matrices(tensors) - {"F32"})
    quantized = [name for name in compact if name not in FLOAT_FORMATS]
    if exact and quantized:
        return [f"exact: {' and '.join(quantized)} weights were decoded to float32 at load and take that much memory"]
    if kernels:
        return [f"{' and '.join(quantized)} weights run on Hostelry's kernels, level {kernels.level}"]
    if compact:
        return [f"{' and '.join(compact)} weights stay as stored and are decoded to float32 at every use"]
    return []
