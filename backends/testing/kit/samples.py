"""The models of the kit: random, tiny, and shaped so that mixed-up dimensions show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from backends.api import F32, AdapterWeights, LoadableModel
from backends.loading import open_model
from backends.models.spec import RopeScaling
from backends.testing.kit.reference import Reference
from backends.testing.models import FamilyName, ModelSizes, make_random_model
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor, decode

TINY = ModelSizes(
    num_layers=2,
    hidden_size=128,
    ffn_size=160,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=300,
    max_context=2048,
    window=8,
)
"""No two widths are equal, and the vocabulary is no multiple of anything that is convenient."""

WIDE = ModelSizes(num_layers=1, hidden_size=256, ffn_size=512, num_heads=4, num_kv_heads=2, head_dim=64, vocab_size=300)
"""Rows of whole blocks in every format. One layer: what a format costs, not what depth adds to it."""

POISON = 7
"""The token whose embedding is NaN in the poisoned model; other checks do not use it."""

TIED: tuple[FamilyName, ...] = ("gemma2", "gemma3", "qwen2")
"""Families whose published models have no head of their own."""


class Samples:
    """Opens models in a folder of its own, each at most once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._references: dict[str, Reference] = {}

    @property
    def base(self) -> Reference:
        """A Llama."""
        return self.family("llama")

    def family(self, family: FamilyName) -> Reference:
        sizes = msgspec.structs.replace(TINY, tied_head=family in TIED)
        return self._cached(family, lambda: self._make(family, family, sizes))

    @property
    def scaled(self) -> Reference:
        """A Llama with the rotary scaling of Llama 3."""
        scaling = RopeScaling(kind="llama3", factor=8.0, original_context=64)
        return self._cached("scaled", lambda: self._make("scaled", "llama", TINY, scaling))

    @property
    def other(self) -> Reference:
        """A model of other sizes, to be loaded after the base."""
        sizes = ModelSizes(num_layers=1, hidden_size=64, ffn_size=96, num_heads=2, num_kv_heads=1, vocab_size=264)
        return self._cached("other", lambda: self._make("other", "qwen3", sizes))

    @property
    def poisoned(self) -> LoadableModel:
        """The base with `POISON` as NaN: it has no reference, and a sequence that sees it has no finite logits."""
        model = self.base.model
        values = decode(model.tensors["embed"]).copy()
        values[POISON] = np.nan
        embed = StoredTensor("embed", "F32", values.shape, values.view(np.uint8).reshape(len(values), -1))
        return LoadableModel(spec=model.spec, tensors={**model.tensors, "embed": embed})

    @property
    def twinned(self) -> LoadableModel:
        """The base, but its tokens have the same logits in pairs: 0 and 1, 2 and 3 …"""
        model = self.base.model
        values = np.repeat(decode(model.tensors["head"])[::2], 2, axis=0)
        head = StoredTensor("head", "F32", values.shape, values.view(np.uint8).reshape(len(values), -1))
        return LoadableModel(spec=model.spec, tensors={**model.tensors, "head": head})

    def stored_as(self, form: str) -> Reference:
        """Every matrix in one format; the reference computes with the values of its blocks."""
        return self._cached(f"in {form}", lambda: Reference(in_format(self._wide().model, form)))

    def copy_of_base(self, name: str) -> Path:
        """The base in a directory that no other check uses."""
        return make_random_model(self._directory / name, sizes=TINY)

    def _wide(self) -> Reference:
        return self._cached("wide", lambda: self._make("wide", "llama", WIDE))

    def _make(self, name: str, family: FamilyName, sizes: ModelSizes, scaling: RopeScaling | None = None) -> Reference:
        folder = self._directory / name
        return Reference(open_model(make_random_model(folder, sizes=sizes, family=family, rope_scaling=scaling)))

    def _cached(self, name: str, make: Callable[[], Reference]) -> Reference:
        if name not in self._references:
            self._references[name] = make()
        return self._references[name]


def in_format(model: LoadableModel, form: str) -> LoadableModel:
    """The model with every matrix encoded as `form`; vectors stay F32."""
    tensors = {
        name: _encoded(tensor, form) if len(tensor.shape) == 2 else tensor for name, tensor in model.tensors.items()
    }
    return LoadableModel(spec=model.spec, tensors=tensors)


def _encoded(tensor: StoredTensor, form: str) -> StoredTensor:
    return StoredTensor(tensor.name, form, tensor.shape, FORMATS[form].encode(decode(tensor)))


def random_tokens(count: int, *, seed: int, vocab_size: int = TINY.vocab_size) -> list[int]:
    """The same for the same seed; `POISON` never occurs."""
    drawn = np.random.default_rng(seed).integers(POISON + 1, vocab_size, count)
    return [int(token) for token in drawn]


def random_adapter(shapes: dict[str, tuple[int, int]], *, rank: int, seed: int) -> AdapterWeights:
    """An adapter strong enough to show: its part of each product is about half of the base's."""
    rng = np.random.default_rng(seed)
    matrices = {
        name: (_scaled(rng, (rank, columns)), _scaled(rng, (rows, rank))) for name, (rows, columns) in shapes.items()
    }
    return AdapterWeights(rank=rank, scale=0.5, matrices=matrices)


def _scaled(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Normal numbers, divided so that a product with them is about as large as what they multiply."""
    matrix: F32 = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))  # ty: ignore[invalid-assignment]  # float32 stays float32
    return matrix
