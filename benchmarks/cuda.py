"""Decode speed of the CUDA path against the device's own memory bandwidth, and of many streams against one.

    python -m benchmarks.cuda [--rounds 5] [--steps 64] [--context 512] [--streams 64]

A model of Llama 3 8B's sizes with random bfloat16 weights, made on the device. Every stream holds `context` tokens of
KV and decodes `steps` tokens greedily, the chosen ids staying on the device. One stream reads all weights but the
embedding table, and its KV, for each token: bandwidth over those bytes is the limit that no program can pass. The
bandwidth is the better one of a large copy and a large read, measured in the same run; rounds are interleaved, and
medians over all but the first are compared. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from backends.api import KVPlan, Step
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec
from backends.steps import flat_indices
from benchmarks.record import Bar, Numbers, at_least, rate, write_result

if TYPE_CHECKING:
    import torch

    from backends.torch.cuda.executor import CudaExecutor
    from backends.torch.cuda.graphs import Record

LLAMA_3_8B = ModelSpec(
    family="llama",
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_size=14336,
    vocab_size=128256,
    max_context=8192,
    rope_theta=500000.0,
)
BLOCK_TOKENS = 16
ONE_STREAM_BAR = 0.45
"""Least share of the bandwidth's limit."""
STREAMS_BAR, STREAMS_OF_BAR = 15.0, 64
"""Least times the speed of one stream, at so many."""


class Load(msgspec.Struct, frozen=True):
    """Load of a round."""

    streams: int
    steps: int
    context: int
    rounds: int

    @property
    def blocks_each(self) -> int:
        return -(-(self.context + self.steps) // BLOCK_TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--streams", type=int, default=64)
    arguments = parser.parse_args()
    try:
        import torch
    except ModuleNotFoundError:
        sys.exit('benchmarks.cuda needs torch: pip install "hostelry[torch]"')
    if not torch.cuda.is_available():
        sys.exit("benchmarks.cuda needs CUDA, and torch finds no CUDA device here; nothing was measured")
    from backends.torch.cuda.graphs import record_cuda

    load = Load(arguments.streams, arguments.steps, arguments.context, arguments.rounds)
    numbers = measure(LLAMA_3_8B, load, device=torch.device("cuda"), dtype=torch.bfloat16, record=record_cuda())
    numbers |= {"device": torch.cuda.get_device_name(), "torch": version("torch"), "triton": version("triton")}
    options = " ".join(f"--{name} {value}" for name, value in vars(arguments).items())
    write_result("cuda", numbers, bars=bars(numbers), command=f"python -m benchmarks.cuda {options}")


def bars(numbers: Numbers) -> list[Bar]:
    """Bars of one stream against the memory's limit, and of many against one, with as many as the bar is for."""
    found = [
        at_least("one stream, share of the bandwidth's limit", numbers["one_stream_share_of_limit"], ONE_STREAM_BAR)
    ]
    if numbers["streams"] == STREAMS_OF_BAR:
        found.append(at_least(f"{STREAMS_OF_BAR} streams over one", numbers["streams_to_one"], STREAMS_BAR, unit="×"))
    return found


def measure(
    spec: ModelSpec, load: Load, *, device: torch.device, dtype: torch.dtype, record: Record, buffer_bytes: int = 2**32
) -> dict[str, object]:
    """Medians of tokens a second and GB a second."""
    import torch

    with torch.inference_mode():
        executor, bytes_read = _make_executor(spec, load, device=device, dtype=dtype, record=record)
        executor.warmup(load.streams)
        contests: dict[str, Callable[[], float]] = {
            "copy": lambda: _copy_bandwidth(device, buffer_bytes),
            "read": lambda: _read_bandwidth(device, buffer_bytes),
            "one": lambda: _decode_rate(executor, load, streams=1, device=device),
            "all": lambda: _decode_rate(executor, load, streams=load.streams, device=device),
            "prefill": lambda: _prefill_rate(executor, load, device=device),
        }
        rounds: dict[str, list[float]] = defaultdict(list)
        for _ in range(load.rounds + 1):
            for name, contest in contests.items():
                rounds[name].append(contest())
    median = {name: statistics.median(values[1:]) for name, values in rounds.items()}
    kv_bytes = 2 * spec.num_layers * spec.kv_size * dtype.itemsize * (load.context + load.steps / 2)
    limit = max(median["copy"], median["read"]) / (bytes_read + kv_bytes)
    return {
        "bandwidth_copy_gb_s": round(median["copy"] / 1e9, 1),
        "bandwidth_read_gb_s": round(median["read"] / 1e9, 1),
        "one_stream_tok_s": round(median["one"], 2),
        "one_stream_limit_tok_s": round(limit, 2),
        "one_stream_share_of_limit": round(median["one"] / limit, 3),
        "streams": load.streams,
        "streams_tok_s": round(median["all"], 1),
        "streams_to_one": round(median["all"] / median["one"], 2),
        "prefill_tok_s": round(median["prefill"], 1),
    }


def _make_executor(
    spec: ModelSpec, load: Load, *, device: torch.device, dtype: torch.dtype, record: Record
) -> tuple[CudaExecutor, int]:
    """Also the bytes of the matrices that a token reads."""
    import torch

    from backends.models.shapes import Inventory
    from backends.torch.cuda.executor import CudaExecutor
    from backends.torch.cuda.weights import CudaWeights, Dense, MergedLinear

    shapes, inventory = expected_shapes(spec), Inventory(spec)

    def dense(names: tuple[str, ...]) -> Dense:
        rows, columns = sum(shapes[name][0] for name in names), shapes[names[0]][1]
        weight = torch.empty(rows, columns, dtype=dtype, device=device)
        return Dense(weight.normal_(std=columns**-0.5))

    linears = {names: MergedLinear((dense(names),)) for names in inventory.linears}
    weights = CudaWeights(
        dtype=dtype,
        embedding=dense(("embed",)),
        linears=linears,
        norms={name: torch.ones(shapes[name], device=device) for name in inventory.norms},
        head_norms=[None] * spec.num_layers,
    )
    plan = KVPlan(
        layout="paged", num_blocks=load.streams * load.blocks_each, block_tokens=BLOCK_TOKENS, bytes_per_block=0
    )
    context = load.blocks_each * BLOCK_TOKENS
    executor = CudaExecutor(spec, weights, plan, max_context=context, device=device, record=record)
    for tensor in executor.keys_and_values:
        tensor.normal_()
    read = sum(shapes[name][0] * shapes[name][1] for names in linears for name in names) * dtype.itemsize
    return executor, read


def _decode_rate(executor: CudaExecutor, load: Load, *, streams: int, device: torch.device) -> float:
    """Tokens a second of all streams, from the first token's step to the last one's."""
    import torch

    picked = torch.zeros(streams, dtype=torch.int64, device=device)

    def decode() -> None:
        nonlocal picked
        for index in range(load.steps):
            picked = executor.run(_step(load, streams, start=load.context + index, new=1), picked).argmax(dim=1)

    return rate(streams * load.steps / _seconds(decode, device), "decoding")


def _prefill_rate(executor: CudaExecutor, load: Load, *, device: torch.device) -> float:
    """Prompt tokens a second of one stream's whole context."""
    step = _step(load, 1, start=0, new=load.context)
    return load.context / _seconds(lambda: executor.run(step), device)


def _step(load: Load, streams: int, *, start: int, new: int) -> Step:
    """`new` tokens for each stream with `start` in KV: the ids picked by the step before, or zeros for a prompt."""
    table = np.arange(streams * load.blocks_each, dtype=np.int32).reshape(streams, -1)
    q_start = np.arange(streams + 1, dtype=np.int32) * np.int32(new)
    step = Step(
        token_ids=-1 - np.arange(streams, dtype=np.int64) if new == 1 else np.zeros(streams * new, np.int64),
        positions=np.tile(np.arange(start, start + new, dtype=np.int32), streams),
        q_start=q_start,
        kv_len=np.full(streams, start + new, np.int32),
        slot=np.arange(streams, dtype=np.int32),
        logit_rows=q_start[1:] - np.int32(1),
        lora=np.full(streams, -1, np.int32),
        block_table=table,
    )
    return msgspec.structs.replace(step, slot_map=flat_indices(step, table, BLOCK_TOKENS))


def _copy_bandwidth(device: torch.device, buffer_bytes: int) -> float:
    """Bytes read and written a second."""
    import torch

    source = torch.zeros(buffer_bytes // 4, dtype=torch.int32, device=device)
    target = torch.zeros_like(source)
    return 2 * buffer_bytes / _seconds(lambda: target.copy_(source), device)


def _read_bandwidth(device: torch.device, buffer_bytes: int) -> float:
    """Bytes read a second."""
    import torch

    source = torch.zeros(buffer_bytes // 4, dtype=torch.float32, device=device)
    return buffer_bytes / _seconds(source.sum, device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
