"""Turns a `Load` message into a loop that is ready to step, with its adapters. Runs inside the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from adapters.peft import Adapter, read_peft
from adapters.ref import AdapterRef
from backends.api import KVLimit, KVPlan, LoadableModel, ModelInfo, Runner, RunnerCapabilities
from backends.choice import RunnerChoice, choose_runner
from backends.errors import UnsupportedModel
from backends.kv import KVLayout
from backends.models.spec import ModelSpec
from backends.registry import AUTO
from gateway.batching.admission import FirstComeFirstServed
from gateway.batching.fairness import FairShare
from gateway.batching.kv.allocator import KVAllocator
from gateway.batching.kv.blocks import BlockAllocator
from gateway.batching.kv.prefix_index import PrefixIndex
from gateway.batching.kv.slots import SlotAllocator
from gateway.batching.loop import Loop
from gateway.batching.scheduler import StepLimits
from gateway.engine.messages import Load, Progress, Ready

_SHOWN_DIGITS = 12


def read_adapters(
    files: Iterable[AdapterRef], runner: str, capabilities: RunnerCapabilities, model: LoadableModel, info: ModelInfo
) -> dict[str, Adapter]:
    """Adapters by name, all of them in memory.

    Raises `UnsupportedModel` where the runner cannot apply any, and `AdapterError` for one that is unsound or does not
    fit.
    """
    listed = list(files)
    if listed:
        _check_lora_support(runner, capabilities, model, info)
    return {
        file.name: read_peft(Path(file.path), shapes=info.lora_shapes, max_rank=capabilities.lora_max_rank)
        for file in listed
    }


def with_adapters(ready: Ready, adapters: Mapping[str, Adapter]) -> Ready:
    """Add the adapters' names, and for operators one line each that identifies the content."""
    notes = tuple(_note(name, adapter) for name, adapter in adapters.items())
    return msgspec.structs.replace(ready, adapters=tuple(adapters), notes=(*ready.notes, *notes))


def _check_lora_support(runner: str, capabilities: RunnerCapabilities, model: LoadableModel, info: ModelInfo) -> None:
    if not capabilities.lora_slots or not info.lora_shapes:
        raise UnsupportedModel(
            f"runner {runner} on {info.device} does not support LoRA adapters; remove the adapters of this model, or "
            "serve it with backend onnx on the CPU, with Hostelry's kernels and without exact"
        )
    if set(capabilities.formats) <= set(capabilities.lora_formats):
        return
    found = {model.tensors[name].format for name in info.lora_shapes} - set(capabilities.lora_formats)
    if found:
        raise UnsupportedModel(
            f"runner {runner} does not support LoRA adapters on weights in {', '.join(sorted(found))}; "
            f"serve the base in {', '.join(capabilities.lora_formats)}, or remove its adapters"
        )


def _note(name: str, adapter: Adapter) -> str:
    weights = adapter.weights
    num_bytes = sum(a.nbytes + b.nbytes for a, b in weights.matrices.values())
    return (
        f"adapter {name}: rank {weights.rank}, {len(weights.matrices)} linears, {num_bytes / 1e6:.1f} MB, "
        f"sha256 {adapter.digest[:_SHOWN_DIGITS]}"
    )


_COMFORTABLE_CONTEXT = 4096
"""Least default context in tokens, even if fewer sequences then fit at once."""


class RunnerFactory(Protocol):
    """Signature of `backends.registry.create_runner`."""

    def __call__(self, name: str, *, threads: int, exact: bool, device: str) -> Runner: ...


class LoadedEngine(msgspec.Struct, frozen=True):
    """Warm runner, the loop that drives it, and the `Ready` message for the gateway."""

    runner: Runner
    loop: Loop
    ready: Ready


def load_engine(
    load: Load,
    *,
    create_runner: RunnerFactory,
    open_model: Callable[[Path], LoadableModel],
    progress: Callable[[Progress], None],
) -> LoadedEngine:
    """Open the model, load it into a new runner, plan KV, warm up.

    Raises the error with which the model or runner is rejected, mostly `ModelError` or `CapacityExceeded`.
    """
    progress(Progress("opening", 0.0))
    # A damaged file is rejected before a tensor library takes its seconds to import.
    model = open_model(Path(load.model_path))
    choice = choose_runner() if load.runner == AUTO else RunnerChoice(runner=load.runner, reason="")
    runner = create_runner(
        choice.runner, threads=load.engine.threads, exact=load.engine.exact, device=load.engine.device
    )
    _check_capabilities(runner, choice.runner, load)
    info = runner.load(model, lambda fraction: progress(Progress("loading", fraction)))
    if load.adapters:
        progress(Progress("reading adapters", 1.0))
    adapters = read_adapters(load.adapters, choice.runner, runner.capabilities(), model, info)
    layout = _layout(load, runner.capabilities(), choice.runner)
    has_prefixes = load.engine.prefix_cache and (layout == "paged" or runner.capabilities().scattered_slots)
    limit = _kv_limit(load, info, model.spec, layout=layout, has_prefixes=has_prefixes)
    plan = runner.plan_memory(limit)
    progress(Progress("warming up", 1.0))
    runner.warmup()
    limits = _limits(load, limit, plan, runner.capabilities())
    loop = Loop(
        runner,
        limits=limits,
        kv=_kv(plan, has_prefixes=has_prefixes),
        order=FairShare() if load.engine.scheduling == "fair" else FirstComeFirstServed(),
        vocab_size=info.vocab_size,
        max_slowdown=load.engine.max_decode_slowdown,
        adapters={name: adapter.weights for name, adapter in adapters.items()},
    )
    ready = _ready(load, choice, model.spec, info, plan, limits)
    return LoadedEngine(runner, loop, with_adapters(ready, adapters))


def _check_capabilities(runner: Runner, name: str, load: Load) -> None:
    capabilities = runner.capabilities()
    if not capabilities.ragged_steps:
        raise UnsupportedModel(f"runner {name} cannot run sequences of different lengths in one step")
    if load.engine.kv_dtype not in ("auto", *capabilities.kv_dtypes):
        kept = ", ".join(capabilities.kv_dtypes) or "no choice here"
        raise UnsupportedModel(
            f"runner {name} cannot store the KV cache as {load.engine.kv_dtype} ({kept}); set kv_dtype"
        )


def _layout(load: Load, capabilities: RunnerCapabilities, name: str) -> KVLayout:
    if load.engine.kv_layout == "auto":
        return capabilities.kv_layouts[0]
    if load.engine.kv_layout not in capabilities.kv_layouts:
        layouts = ", ".join(capabilities.kv_layouts)
        raise UnsupportedModel(f"runner {name} has no {load.engine.kv_layout} KV layout ({layouts}); set kv_layout")
    return load.engine.kv_layout


def _kv(plan: KVPlan, *, has_prefixes: bool) -> KVAllocator:
    if plan.layout == "paged":
        return BlockAllocator(num_blocks=plan.num_blocks, block_tokens=plan.block_tokens, has_prefixes=has_prefixes)
    prefixes = PrefixIndex() if has_prefixes else None
    return SlotAllocator(num_slots=plan.num_blocks, slot_tokens=plan.block_tokens, prefixes=prefixes)


def _kv_limit(load: Load, info: ModelInfo, spec: ModelSpec, *, layout: KVLayout, has_prefixes: bool) -> KVLimit:
    max_sequences = min(load.engine.max_batch, load.engine.step_tokens)
    if has_prefixes:
        # More slots to keep prefixes while all sequences run, as far as memory allows.
        max_sequences += max(1, max_sequences // 2)
    num_at_once = 1 if layout == "paged" else max_sequences
    max_context = min(load.engine.max_context or _default_context(load, spec, num_at_once), info.max_context)
    return KVLimit(
        max_bytes=load.engine.kv_bytes,
        max_sequences=max_sequences,
        max_context=max_context,
        layout=layout,
        dtype=load.engine.kv_dtype,
    )


def _default_context(load: Load, spec: ModelSpec, num_at_once: int) -> int:
    """Context with which so many sequences fit into KV memory at once, but at least `_COMFORTABLE_CONTEXT`."""
    tokens_each = load.engine.kv_bytes // (spec.kv_bytes_per_token * num_at_once)
    return max(tokens_each, _COMFORTABLE_CONTEXT)


def _limits(load: Load, limit: KVLimit, plan: KVPlan, capabilities: RunnerCapabilities) -> StepLimits:
    """Limits of a step. Blocks are shared, so one sequence may grow to the whole context, whatever their number."""
    return StepLimits(
        max_sequences=min(load.engine.max_batch, load.engine.step_tokens, plan.num_blocks),
        max_step_tokens=load.engine.step_tokens,
        max_context=min(limit.max_context, plan.block_tokens) if plan.layout == "slot" else limit.max_context,
        max_logit_rows=capabilities.max_verify_rows,
    )


def _ready(
    load: Load, choice: RunnerChoice, spec: ModelSpec, info: ModelInfo, plan: KVPlan, limits: StepLimits
) -> Ready:
    return Ready(
        vocab_size=info.vocab_size,
        max_context=limits.max_context,
        max_sequences=limits.max_sequences,
        weight_bytes=info.weight_bytes,
        kv_bytes=plan.num_blocks * plan.bytes_per_block,
        kv_tokens=plan.num_blocks * plan.block_tokens,
        device=info.device,
        runner=choice.runner,
        reason=choice.reason,
        eos_token_ids=spec.eos_token_ids,
        notes=(*spec.notes, *info.notes, *_notes(load, info, plan, limits)),
        fallbacks=tuple(text for text in (choice.fallback, *info.fallbacks) if text),
    )


def _notes(load: Load, info: ModelInfo, plan: KVPlan, limits: StepLimits) -> list[str]:
    """Notes on where the engine gives less than was configured or than the model supports."""
    notes = [f"the KV cache is stored as {plan.dtype}"] if plan.dtype not in ("", "f32") else []
    if limits.max_sequences < load.engine.max_batch:
        notes.append(
            f"{limits.max_sequences} concurrent sequences instead of {load.engine.max_batch}; "
            "raise kv_cache_mb or max_step_tokens, or lower max_context"
        )
    if limits.max_context < min(load.engine.max_context or info.max_context, info.max_context):
        notes.append(
            f"context is {limits.max_context} of the model's {info.max_context} tokens; "
            "raise kv_cache_mb or set max_context"
        )
    return notes
