"""LoRA adapters from files: read, checked against their base, and under the names that runners know."""

from adapters.errors import AdapterError, UnsupportedAdapter
from adapters.peft import Adapter, read_peft

__all__ = ["Adapter", "AdapterError", "UnsupportedAdapter", "read_peft"]
