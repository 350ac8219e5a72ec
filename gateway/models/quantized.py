"""Quantized copies of models, kept in the data directory."""

from __future__ import annotations

from pathlib import Path

from backends.quantize import QuantizeProgress, quantize_file, quantized_name


def quantized_model(source: Path, *, format: str, directory: Path, progress: QuantizeProgress) -> Path:
    """The model in another format: made at first, found again later. `directory` holds all such files.

    What GGUF cannot express about a tokenizer is a fault. Raises `ModelError`.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / quantized_name(source, format=format, pure=False, importance=None)
    if not path.exists():
        quantize_file(source, path, format=format, progress=lambda part, tensor: progress(part, f"quantizing {tensor}"))
    return path
