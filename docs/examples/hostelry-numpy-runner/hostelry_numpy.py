"""A whole Hostelry runner on NumPy, exact and slow. `docs/write-a-backend.md` walks through it."""

from collections.abc import Callable

import msgspec
import numpy as np

from backends import api
from backends.api import F32, AdapterWeights
from backends.errors import CapacityExceeded, Fatal, UnsupportedModel
from backends.models.decoder import forward
from backends.models.rotary import rotary_amplitude, rotary_frequencies
from backends.models.shapes import lora_shapes
from backends.models.spec import ModelSpec
from backends.runner_base import PlannedKV, RunnerBase
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor, decode

CAPABILITIES = api.RunnerCapabilities(
    kv_layouts=("slot",),
    formats=tuple(FORMATS),
    max_verify_rows=64,
    lora_max_rank=64,
    lora_slots=8,
    lora_targets=("q", "k", "v", "o", "gate", "up", "down"),
    lora_formats=tuple(FORMATS),
)


def create_runner(*, threads: int = 0, exact: bool = False) -> api.Runner:  # noqa: ARG001  # it is always exact
    return NumpyRunner(asked_threads=threads)


class NumpyModel(msgspec.Struct):
    spec: ModelSpec
    tensors: dict[str, StoredTensor]
    adapters: dict[int, AdapterWeights] = {}


class NumpyRunner(RunnerBase[NumpyModel, F32]):  # its KV: [layers, keys and values, slots, tokens, kv_heads, head_dim]
    def __init__(self, *, asked_threads: int) -> None:
        super().__init__()
        self._asked_threads = asked_threads

    def capabilities(self) -> api.RunnerCapabilities:
        return CAPABILITIES

    def load_weights(
        self, model: api.LoadableModel, progress: Callable[[float], None]
    ) -> tuple[NumpyModel, api.ModelInfo]:
        tensors = {}
        for done, (name, tensor) in enumerate(model.tensors.items(), start=1):
            if tensor.format not in CAPABILITIES.formats:
                raise UnsupportedModel(f"{name} is {tensor.format}; this runner takes {', '.join(FORMATS)}")
            with self.errors.load():
                tensors[name] = msgspec.structs.replace(tensor, data=tensor.data.copy())  # the file may go
            progress(done / len(model.tensors))
        return NumpyModel(model.spec, tensors), api.ModelInfo(
            vocab_size=model.spec.vocab_size,
            max_context=model.spec.max_context,
            num_layers=model.spec.num_layers,
            weight_bytes=sum(tensor.data.nbytes for tensor in tensors.values()),
            lora_shapes=lora_shapes(model.spec, CAPABILITIES.lora_targets),
            fallbacks=("NumPy sets its threads itself; see OPENBLAS_NUM_THREADS",) if self._asked_threads else (),
        )

    def allocate(self, model: NumpyModel, planned: PlannedKV) -> F32:
        spec, slots = model.spec, (planned.plan.num_blocks, planned.plan.block_tokens)
        return np.zeros((spec.num_layers, 2, *slots, spec.num_kv_heads, spec.head_dim), np.float32)

    def run(self, step: api.Step, model: NumpyModel, kv: F32) -> api.StepResult:
        if missing := set(step.lora.tolist()) - {-1, *model.adapters}:
            raise Fatal(f"adapter slots {sorted(missing)} are empty: put_adapter comes first")
        with np.errstate(all="ignore"):  # the engine looks for NaN
            return api.StepResult(forward(model.spec, NumpyOps(model, kv, step)))

    def copy(self, kv: F32, source: int, destination: int, num_tokens: int | None) -> None:
        kv[:, :, destination, :num_tokens] = kv[:, :, source, :num_tokens]

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        model, rank = self.model, weights.rank
        shapes = lora_shapes(model.spec, CAPABILITIES.lora_targets)
        fitting = {name: ((rank, columns), (rows, rank)) for name, (rows, columns) in shapes.items()}
        foreign = [name for name, (a, b) in weights.matrices.items() if (a.shape, b.shape) != fitting.get(name)]
        if slot not in range(CAPABILITIES.lora_slots) or rank > CAPABILITIES.lora_max_rank or foreign:
            raise CapacityExceeded(f"adapter slot {slot}, rank {rank}, targets {foreign} exceed {CAPABILITIES}")
        model.adapters[slot] = weights

    def drop_adapter(self, slot: int) -> None:
        self.model.adapters.pop(slot, None)

    def stats(self) -> dict[str, float]:
        return {**super().stats(), "adapters": float(len(self.model.adapters))}


class NumpyOps:
    """`backends.models.ops.Ops` for one step of T tokens, on float32 arrays."""

    def __init__(self, model: NumpyModel, kv: F32, step: api.Step) -> None:
        self._spec, self._tensors, self._kv, self._step = model.spec, model.tensors, kv, step
        self._lora = [model.adapters.get(slot) for slot in step.lora.tolist()]
        self._rows = np.split(np.arange(step.num_tokens), step.q_start[1:-1])  # which tokens are each sequence's

    def embed(self) -> F32:
        embed = self._tensors["embed"]
        return FORMATS[embed.format].decode(embed.data[self._step.token_ids])

    def norm(self, hidden: F32, weight: str) -> F32:
        size: F32 = np.sqrt(np.square(hidden).mean(axis=-1, keepdims=True) + self._spec.rms_norm_eps)
        return hidden / size * decode(self._tensors[weight])

    def add(self, branch: F32, residual: F32) -> F32:
        return branch + residual

    def add_norm(self, branch: F32, residual: F32, weight: str) -> tuple[F32, F32]:
        return self.norm(branch + residual, weight), branch + residual

    def scale(self, x: F32, factor: float) -> F32:
        return x * np.float32(factor)

    def softcap(self, x: F32, cap: float) -> F32:
        return self.scale(np.tanh(x / np.float32(cap)), cap)

    def linear(self, x: F32, names: tuple[str, ...]) -> F32:
        return np.concatenate([self._project(x, name) for name in names], axis=1)

    def attention(self, qkv: F32, layer: int) -> F32:
        """`[T, (heads + 2 kv_heads) * head_dim]` → `[T, heads * head_dim]`; writes the step's keys and values."""
        q, k, v = np.split(qkv, np.cumsum([self._spec.q_size, self._spec.kv_size]), axis=1)
        q, k = (self._turned(x, layer, norm) for x, norm in ((q, "q_norm"), (k, "k_norm")))
        mixed = np.empty_like(q)
        for rows, slot, end in zip(self._rows, self._step.slot, self._step.kv_len, strict=True):
            keys, values = self._kv[layer, :, slot, :end]  # [m, kv_heads, head_dim]: old and new
            positions = self._step.positions[rows]
            keys[positions], values[positions] = k[rows], v[rows].reshape(k[rows].shape)
            mixed[rows] = self._attend(q[rows], keys, values, positions, self._spec.window(layer))
        return mixed.reshape(len(q), -1)

    def gated(self, gate_up: F32) -> F32:
        gate, up = np.split(gate_up, 2, axis=1)
        bend = gate / 2 if self._spec.activation == "silu" else 0.7978845608 * (gate + 0.044715 * gate**3)
        return self.scale(gate * (1 + np.tanh(bend)) * up, 0.5)  # silu: x * sigmoid(x); else GELU with sqrt(2 / pi)

    def experts(self, normed: F32, layer: int) -> F32:
        shares = softmax(self._project(normed, f"layers.{layer}.router"))
        others = np.argsort(-shares, axis=1, kind="stable")[:, self._spec.experts_per_token :]
        np.put_along_axis(shares, others, 0, axis=1)
        shares = shares / shares.sum(axis=1, keepdims=True) if self._spec.normalized_experts else shares
        mixed = np.zeros_like(normed)
        for expert in np.flatnonzero(shares.any(axis=0)):
            tokens, prefix = np.flatnonzero(shares[:, expert]), f"layers.{layer}.experts.{expert}"
            inner = self.gated(self.linear(normed[tokens], (f"{prefix}.gate", f"{prefix}.up")))
            mixed[tokens] += shares[tokens, expert, None] * self._project(inner, f"{prefix}.down")
        return mixed

    def select(self, x: F32) -> F32:
        rows = self._step.logit_rows
        self._rows = np.split(np.arange(len(rows)), np.searchsorted(rows, self._step.q_start[1:-1]))
        return x[rows]

    def _project(self, x: F32, name: str) -> F32:
        bias = self._tensors.get(f"{name}.bias")
        y: F32 = x @ decode(self._tensors[name]).T + (decode(bias) if bias else np.float32(0))
        for rows, adapter in zip(self._rows, self._lora, strict=True):
            if adapter and name in adapter.matrices:
                a, b = adapter.matrices[name]
                y[rows] += np.float32(adapter.scale) * (x[rows] @ a.T @ b.T)
        return y

    head = _project

    def _turned(self, x: F32, layer: int, norm: str) -> F32:
        """`[T, heads * head_dim]` → `[T, heads, head_dim]`: normed, all at once or each head, and rotated."""
        x = self.norm(x, f"layers.{layer}.{norm}") if self._spec.qk_norm_whole else x
        x = x.reshape(len(x), -1, self._spec.head_dim)
        x = self.norm(x, f"layers.{layer}.{norm}") if self._spec.qk_norm else x
        rope = self._spec.rope(layer)
        angles = self._step.positions[:, None, None] * rotary_frequencies(rope, self._spec.head_dim)
        turn = (rotary_amplitude(rope) * np.exp(1j * angles)).astype(np.complex64)
        turned = (x[..., : x.shape[-1] // 2] + 1j * x[..., x.shape[-1] // 2 :]) * turn
        return np.concatenate([turned.real, turned.imag], axis=-1)

    def _attend(self, q: F32, keys: F32, values: F32, positions: api.I32, window: int) -> F32:
        """n queries `[n, heads, head_dim]` of one sequence over its m keys `[m, kv_heads, head_dim]`."""
        shared, cap = self._spec.num_heads // self._spec.num_kv_heads, self._spec.attention_softcap
        keys, values = (x.repeat(shared, axis=1).swapaxes(0, 1) for x in (keys, values))  # [heads, m, head_dim]
        scores = q.swapaxes(0, 1) @ keys.swapaxes(1, 2) * np.float32(self._spec.score_scale)  # [heads, n, m]
        scores = self.softcap(scores, cap) if cap else scores
        distance = positions[:, None] - np.arange(keys.shape[1])
        visible = (distance >= 0) & (distance < (window or np.inf))
        return (softmax(np.where(visible, scores, np.float32(-np.inf))) @ values).swapaxes(0, 1)


def softmax(x: F32) -> F32:
    weights: F32 = np.exp(x - x.max(axis=-1, keepdims=True))
    total: F32 = weights.sum(axis=-1, keepdims=True)
    return weights / total
