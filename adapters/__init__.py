"""LoRA adapters from files: read, checked against their base, and renamed to the runners' names."""
