"""Execution providers of onnxruntime, by the name of the device, and which of them work here.

Verified on the CPU; `webgpu` in software only (SwiftShader), the others not on such hardware yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from backends.errors import BackendError
from backends.onnx.provider import Provider
from backends.registry import AUTO, RunnerUnavailable

PROVIDERS = (
    Provider(device="cuda", name="CUDAExecutionProvider", extra="onnx-gpu"),
    Provider(device="webgpu", name="WebGpuExecutionProvider", extra="onnx-webgpu", strict=True),
    Provider(device="dml", name="DmlExecutionProvider", extra="onnx-directml", in_place=False),
    # It supports neither attention nor quantized weights: half of each layer stays on the CPU, with a copy at every
    # switch.
    Provider(device="coreml", name="CoreMLExecutionProvider", extra="onnx", on_host=True, automatic=False),
    Provider(device="cpu", name="CPUExecutionProvider", extra="onnx", on_host=True),
)
"""Best first."""
_FUSED_SINCE = (1, 32)
"""The first onnxruntime whose attention takes rows of different lengths in one step (`query_seqlens`)."""


class ProviderChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Providers to try in this order, why, and what was passed over though the installed package offers it."""

    candidates: tuple[Provider, ...]
    reason: str
    fallbacks: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        return self.candidates[0].device


def available_providers(offered: Sequence[str] | None = None) -> tuple[str, ...]:
    """Devices that the installed onnxruntime was built for, best first; whether they are there is another matter."""
    names = _offered() if offered is None else offered
    return tuple(provider.device for provider in PROVIDERS if provider.name in names)


def choose_provider(
    device: str = AUTO,
    *,
    offered: Sequence[str] | None = None,
    failure_of: Callable[[Provider], str] | None = None,
) -> ProviderChoice:
    """Providers for `device`, best first; `auto` is every provider that can run a small graph.

    `offered` are onnxruntime's names of providers and `failure_of` returns why one fails, empty if it works; by default
    both come from the installed package. Raises `RunnerUnavailable` for a device that was configured by name and is not
    available, with the extra to install.
    """
    names = _offered() if offered is None else offered
    failure_of = failure_of or _failure
    if device != AUTO:
        return ProviderChoice(candidates=(_asked_for(device, names, failure_of),), reason="it was asked for")
    problems = {p: failure_of(p) for p in PROVIDERS if p.name in names and p.automatic}
    candidates = tuple(provider for provider, problem in problems.items() if not problem)
    if not candidates:
        raise RunnerUnavailable('the installed onnxruntime works on no known device: pip install "hostelry[onnx]"')
    return ProviderChoice(
        candidates=candidates,
        reason=f"the best device on which a small graph ran, of {', '.join(available_providers(names))}",
        fallbacks=tuple(f"{p.device} is installed and fails: {problem}" for p, problem in problems.items() if problem),
    )


def fit_version(choice: ProviderChoice, version: tuple[int, ...]) -> ProviderChoice:
    """Capabilities of an older onnxruntime: builds for devices lag behind, and their CPU has to step in."""
    if version >= _FUSED_SINCE:
        return choice
    candidates = tuple(msgspec.structs.replace(p, on_host=False) for p in choice.candidates if p.device != "coreml")
    if not candidates:
        raise RunnerUnavailable('device coreml needs a newer onnxruntime: pip install --upgrade "hostelry[onnx]"')
    slow = (
        f"onnxruntime {'.'.join(map(str, version))} has no attention for ragged steps: the CPU serves slower than with "
        "1.32, without Hostelry's kernels and without LoRA adapters; if the CPU is to serve, uninstall it, then "
        'pip install "hostelry[onnx]"'
    )
    fallbacks = (*choice.fallbacks, slow) if candidates[0].device == "cpu" else choice.fallbacks
    return msgspec.structs.replace(choice, candidates=candidates, fallbacks=fallbacks)


def _asked_for(device: str, names: Sequence[str], failure_of: Callable[[Provider], str]) -> Provider:
    by_device = {provider.device: provider for provider in PROVIDERS}
    if device not in by_device:
        raise RunnerUnavailable(f"the onnx runner has no device {device!r}; it has {', '.join(by_device)}")
    provider = by_device[device]
    if provider.name not in names:
        raise RunnerUnavailable(
            f"the installed onnxruntime was built without {device}; uninstall it, then "
            f'pip install "hostelry[{provider.extra}]"'
        )
    problem = failure_of(provider)
    if problem:
        raise RunnerUnavailable(f"device {device} does not work here: {problem}")
    return provider


def _offered() -> Sequence[str]:
    import onnxruntime  # late: listing the table above needs no library

    names: list[str] = onnxruntime.get_available_providers()
    return names


def _failure(provider: Provider) -> str:
    from backends.onnx.session import try_session

    try:
        try_session(provider)
    except BackendError as error:
        return " ".join(str(error).split())
    return ""
