"""Recognising pickled weights, which are programs: they are named in an error and never opened as such."""

from __future__ import annotations

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLE_ADVICE = (
    "pickled weights can run code and are never loaded; convert to safetensors (`save_pretrained` of transformers "
    "writes it) or to GGUF (`convert_hf_to_gguf.py` of llama.cpp)"
)

_ZIP = b"PK\x03\x04"  # torch.save since 1.6 writes a zip archive
_PICKLE_PROTOCOLS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def looks_pickled(name: str, head: bytes) -> bool:
    """Whether a file name or its first bytes are those of pickled weights."""
    return name.endswith(PICKLE_SUFFIXES) or head.startswith((_ZIP, *_PICKLE_PROTOCOLS))
