"""The supported model families as data: how their configuration becomes a `ModelSpec`, and their tensor names."""

from __future__ import annotations

from backends.models.families.gguf import GgufModel, spec_from_metadata
from backends.models.families.huggingface import family_of, spec_from_config
from backends.models.families.names import Naming

__all__ = ["GgufModel", "Naming", "family_of", "spec_from_config", "spec_from_metadata"]
