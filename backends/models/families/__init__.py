"""The supported model families as data: how their configuration becomes a `ModelSpec`, and their tensor names."""

from __future__ import annotations

from backends.models.families.gguf import GgufModel, spec_from_metadata
from backends.models.families.huggingface import spec_from_config
from backends.models.families.names import GGUF_NAMES, HUGGING_FACE_NAMES, Naming

__all__ = ["GGUF_NAMES", "HUGGING_FACE_NAMES", "GgufModel", "Naming", "spec_from_config", "spec_from_metadata"]
