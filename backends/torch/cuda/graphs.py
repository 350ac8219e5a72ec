"""Decode steps as CUDA graphs: one for each number of rows worth a recording. Not verified on a GPU yet.

A step of one token for each of n sequences launches some ten kernels a layer, more than the host can keep up with. So
it is padded to the next bucket and recorded once; a replay is one launch. Before its recording is ready a bucket runs
the same padded step eagerly: recording happens at warm-up or at a bucket's second use, never in front of a first token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import torch
from torch import Tensor

from backends.api import KVPlan, Step
from backends.torch.cuda.inputs import DeviceStep, on_device, pad_decode, padding, resolve, starts, step_arrays, upload

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Rows of a recording; more rows than the last run eagerly."""

GraphBody = Callable[[], Tensor]


class Record(Protocol):
    """Record `body`: the tensor that its output will be in, and what runs it, then and ever after."""

    def __call__(self, body: GraphBody) -> tuple[Tensor, Callable[[], object]]: ...


def bucket_of(num_rows: int, buckets: Sequence[int] = BUCKETS) -> int | None:
    """Smallest bucket of at least `num_rows`, if there is one."""
    return next((bucket for bucket in buckets if bucket >= num_rows), None)


def is_decode(step: Step) -> bool:
    """True if every sequence has one token and needs its logits, and none has an adapter."""
    rows = step.num_sequences
    return step.num_tokens == rows == len(step.logit_rows) and int(step.lora.max()) < 0


class _Bucket(msgspec.Struct):
    """`flat` and `inputs` are read by the recording, `output` is written by it."""

    flat: Tensor
    inputs: DeviceStep
    was_used: bool = False
    output: Tensor | None = None
    replay: Callable[[], object] | None = None


class DecodeGraphs:
    """`body` computes the logits `[bucket, vocab]` of a padded step, with nothing that waits for the device."""

    def __init__(
        self,
        body: Callable[[DeviceStep], Tensor],
        record: Record,
        plan: KVPlan,
        *,
        max_context: int,
        device: torch.device,
    ) -> None:
        self._body, self._record, self._plan, self._device = body, record, plan, device
        self._num_columns = -(-max_context // plan.block_tokens)
        self._buckets: dict[int, _Bucket] = {}

    @property
    def recorded(self) -> tuple[int, ...]:
        """Buckets whose next step is a replay."""
        return tuple(sorted(size for size, bucket in self._buckets.items() if bucket.replay is not None))

    def run(self, step: Step, picked: Tensor | None = None) -> Tensor | None:
        """Logits `[S, vocab]`, valid until the next run, or None for a step that is no decode step of a bucket."""
        size = bucket_of(step.num_sequences) if is_decode(step) else None
        if size is None:
            return None
        bucket = self._bucket(size)
        upload(pad_decode(step_arrays(step, self._plan, tile_queries=1), size), self._device, into=bucket.flat)
        resolve(bucket.inputs.token_ids, picked)
        if bucket.replay is None and bucket.was_used:
            self._record_bucket(bucket)
        bucket.was_used = True
        return self._compute(bucket)[: step.num_sequences]

    def record(self, sizes: Sequence[int]) -> None:
        """Record these buckets now, the largest first, so that the others fit in its memory."""
        for size in sorted(sizes, reverse=True):
            bucket = self._bucket(size)
            upload(padding(size, 1), self._device, into=bucket.flat)
            self._body(bucket.inputs)  # compiles kernels and makes library handles, which a recording cannot
            self._record_bucket(bucket)

    def _bucket(self, size: int) -> _Bucket:
        if size not in self._buckets:
            widest = padding(size, self._num_columns)
            flat = torch.zeros(starts(widest)[-1], dtype=torch.int32, device=self._device)
            self._buckets[size] = _Bucket(flat, on_device(widest, flat))
        return self._buckets[size]

    def _record_bucket(self, bucket: _Bucket) -> None:
        bucket.output, bucket.replay = self._record(lambda: self._body(bucket.inputs))

    def _compute(self, bucket: _Bucket) -> Tensor:
        if bucket.replay is None or bucket.output is None:
            return self._body(bucket.inputs)
        bucket.replay()
        return bucket.output


def record_cuda() -> Record:
    """Recordings that share one memory pool: they never run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def record(body: GraphBody) -> tuple[Tensor, Callable[[], object]]:
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may allocate meanwhile; only this one's calls belong to the recording.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = body()
        return output, graph.replay

    return record
