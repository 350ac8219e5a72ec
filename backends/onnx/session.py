"""Opens ONNX Runtime sessions with the weights outside the graph, on the selected device and on the CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime as ort

from backends.errors import ModelError
from backends.onnx.errors import ERRORS
from backends.onnx.graph import Graph
from backends.onnx.provider import Provider


def trim_heap() -> None:
    """Loading frees as many bytes as the model has; glibc would keep most of them. Does nothing elsewhere."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)


_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def physical_cores() -> int:
    """Number of physical cores that this process may use, at least 1; of logical ones if physical are not reported."""
    if not hasattr(os, "sched_getaffinity"):  # only Linux has it
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    return len({_siblings(cpu) for cpu in usable}) or 1


def _siblings(cpu: int) -> str:
    """Names the core of a logical processor."""
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text().strip()
    except OSError:
        return str(cpu)


_ERRORS_ONLY, _FATAL_ONLY = 3, 4
_SPIN_US = "20"
"""Microseconds that idle threads of a running step spin. The default (about a millisecond) doubles the time of a step
when the cores are shared, as they are with the gateway's event loop; on idle cores it gains 3 to 20 % at one row.
"""
_CPU = "CPUExecutionProvider"


def share_arrays(graph: Graph) -> dict[str, ort.OrtValue]:
    """Arrays that the session reads in place: to be kept as long as the session."""
    return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in graph.shared.items()}


def open_session(
    graph: Graph,
    provider: Provider,
    *,
    threads: int,
    shared: Mapping[str, ort.OrtValue] = MappingProxyType({}),
    library: Path | None = None,
) -> ort.InferenceSession:
    """Open a session whose large initializers are the graph's arrays; it copies all that are not `shared`.

    `library` has the operators of the graph that are not onnxruntime's own.

    Raises `ModelError` when the graph is rejected, or when the session is not on the provider, which onnxruntime itself
    does not report.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A probe that fails is reported by us.
    options.log_severity_level = _ERRORS_ONLY if provider.name == _CPU else _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    if provider.name != _CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider.strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    names = [provider.name] if provider.strict or provider.name == _CPU else [provider.name, _CPU]
    with ERRORS.load(f"refused the graph on {provider.device}"):
        if library is not None:
            options.register_custom_ops_library(str(library))
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in graph.initializers.values()]
        options.add_external_initializers(list(graph.initializers), values)
        for name, value in shared.items():
            options.add_initializer(name, value)
        model = graph.model().SerializeToString()
        session = ort.InferenceSession(model, options, providers=names, enable_fallback=False)
    if provider.name not in session.get_providers():
        raise ModelError(f"onnxruntime gave up on {provider.device} and fell back to the CPU")
    return session


def fallbacks_of(session: ort.InferenceSession, provider: Provider) -> list[str]:
    """A sentence if nodes of the graph run on the CPU though another device was chosen."""
    if provider.name == _CPU:
        return []
    parts = session.get_provider_graph_assignment_info()
    on_cpu = [node.op_type for part in parts if part.ep_name == _CPU for node in part.get_nodes()]
    if not on_cpu:
        return []
    kinds = ", ".join(sorted(set(on_cpu)))
    return [f"{len(on_cpu)} operations of the graph run on the CPU instead of {provider.device}: {kinds}"]


def try_session(provider: Provider) -> None:
    """Run a small graph. Raises `ModelError` where that fails or computes something else."""
    graph = Graph()
    x = graph.input("x", ["T", 4])
    graph.named("MatMul", [x, graph.constant("w", np.eye(4, dtype=np.float32))], [graph.output("y", ["T", 4])])
    session = open_session(graph, provider, threads=1)
    given = np.arange(8, dtype=np.float32).reshape(2, 4)
    with ERRORS.load(f"refused the graph on {provider.device}"):
        made = session.run(["y"], {"x": given})[0]
    if not np.array_equal(made, given):
        raise ModelError(f"{provider.device} computes wrong values")
