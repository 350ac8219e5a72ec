"""Runs checked steps on CUDA: decode steps as graphs, everything else eagerly. Not verified on a GPU yet."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backends.api import KVPlan, Step
from backends.models.decoder import forward
from backends.models.spec import ModelSpec
from backends.torch.cuda.graphs import BUCKETS, DecodeGraphs, Record, bucket_of
from backends.torch.cuda.inputs import DeviceStep, on_device, padding, resolve, step_arrays, upload
from backends.torch.cuda.ops import CudaOps, Resident, rotary_tables
from backends.torch.cuda.paged_attention import Pages
from backends.torch.cuda.tiles import TILE_ROWS, Tiling, choose_splits, choose_tiling
from backends.torch.cuda.weights import CudaWeights

_PROCESSORS = 132
"""Processors of an H100; only for a device that does not report them."""


class CudaExecutor:
    """See `backends.torch.execute.Executor`.

    `record` None: no graphs. Under Triton's interpreter the device may be the CPU.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: CudaWeights,
        plan: KVPlan,
        *,
        max_context: int,
        device: torch.device,
        record: Record | None,
    ) -> None:
        self._model = Model(spec, weights, plan, max_context=max_context, device=device)
        self.graphs = None
        if record is not None and not spec.num_experts:  # which experts run is known on the host only
            self.graphs = DecodeGraphs(self._model.decode, record, plan, max_context=max_context, device=device)

    def run(self, step: Step, picked: Tensor | None = None) -> Tensor:
        logits = None if self.graphs is None else self.graphs.run(step, picked)
        return self._model.run(step, picked) if logits is None else logits

    @property
    def keys_and_values(self) -> tuple[Tensor, ...]:
        """Keys and values of all layers, `[num_blocks, block_tokens, kv_heads, head_dim]` each."""
        return self._model.keys_and_values

    def copy(self, source: int, destination: int, num_tokens: int | None = None) -> None:
        for tensor in self.keys_and_values:
            tensor[destination, :num_tokens] = tensor[source, :num_tokens]

    def warmup(self, max_sequences: int) -> None:
        """Compile every kernel that steps may need, and record the graphs of up to `max_sequences` rows."""
        self._model.compile()
        if self.graphs is not None:
            enough = bucket_of(max_sequences) or BUCKETS[-1]
            self.graphs.record([size for size in BUCKETS if size <= enough])


class Model:
    """Weights and KV on the device. Has no reference to graphs, so that graphs may refer to it."""

    def __init__(
        self, spec: ModelSpec, weights: CudaWeights, plan: KVPlan, *, max_context: int, device: torch.device
    ) -> None:
        self._spec, self._plan, self._device, self._max_context = spec, plan, device, max_context
        self._group = spec.num_heads // spec.num_kv_heads
        shape = (plan.num_blocks, plan.block_tokens, spec.num_kv_heads, spec.head_dim)
        self._resident = Resident(
            spec=spec,
            weights=weights,
            keys=[torch.zeros(shape, dtype=weights.dtype, device=device) for _ in range(spec.num_layers)],
            values=[torch.zeros(shape, dtype=weights.dtype, device=device) for _ in range(spec.num_layers)],
            frequencies=rotary_tables(spec, device),
        )
        cuda = device.type == "cuda"
        self._processors = torch.cuda.get_device_properties(device).multi_processor_count if cuda else _PROCESSORS

    @property
    def keys_and_values(self) -> tuple[Tensor, ...]:
        return (*self._resident.keys, *self._resident.values)

    def run(self, step: Step, picked: Tensor | None) -> Tensor:
        """Any step."""
        tiling = self._tiling(int(np.diff(step.q_start).max()))
        arrays = step_arrays(step, self._plan, tile_queries=tiling.rows // self._group)
        inputs = on_device(arrays, upload(arrays, self._device))
        resolve(inputs.token_ids, picked)
        splits = self._splits(len(arrays.tile_sequence), int(step.kv_len.max()))
        return self._forward(inputs, tiling, splits, inputs.logit_rows)

    def decode(self, inputs: DeviceStep) -> Tensor:
        """A padded decode step. All that is decided on the host follows from the number of rows."""
        splits = self._splits(len(inputs.kv_len), self._max_context)
        return self._forward(inputs, self._tiling(1), splits, None)

    def compile(self) -> None:
        """Run every kernel once in each tiling, with and without splits, over an empty step."""
        arrays = padding(1, 1)
        inputs = on_device(arrays, upload(arrays, self._device))
        for rows in TILE_ROWS:
            tiling = self._tiling(rows // self._group)
            for splits in (1, 2):
                self._forward(inputs, tiling, splits, inputs.logit_rows)

    def _forward(self, inputs: DeviceStep, tiling: Tiling, splits: int, logit_rows: Tensor | None) -> Tensor:
        pages = Pages(
            q_start=inputs.q_start,
            kv_len=inputs.kv_len,
            table=inputs.table_columns.t(),
            tile_sequence=inputs.tile_sequence,
            tile_query=inputs.tile_query,
            tile_rows=tiling.rows,
            splits=splits,
        )
        return forward(self._spec, CudaOps(self._resident, inputs, pages, logit_rows=logit_rows))

    def _tiling(self, longest: int) -> Tiling:
        spec, dtype = self._spec, self._resident.weights.dtype
        return choose_tiling(longest, group=self._group, head_dim=spec.head_dim, element_size=dtype.itemsize)

    def _splits(self, num_tiles: int, longest_kv: int) -> int:
        return choose_splits(num_tiles * self._spec.num_kv_heads, longest_kv, processors=self._processors)
