"""LoRA adapters from files: read, checked against their base, and under the names that runners know."""
