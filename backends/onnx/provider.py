"""Facts on an execution provider of onnxruntime. Importing this imports no onnxruntime."""

from __future__ import annotations

import msgspec


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is onnxruntime's, `extra` installs a package that offers it."""

    device: str
    name: str
    extra: str
    on_host: bool = False
    """Works on the host's memory, so attention is the CPU's one operator; else the plain one, with KV on the device."""
    in_place: bool = True
    """An output may be bound to the memory of an input."""
    strict: bool = False
    """Gives nodes to the CPU without a word, unless that is forbidden."""
    automatic: bool = True
