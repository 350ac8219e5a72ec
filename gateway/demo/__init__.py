"""The bundled demo model: a tiny Llama, trained from scratch on the capitals of the world.

Importing this package costs nothing: the code that trains, scores and exports has its own modules with
their own heavy imports.
"""

from pathlib import Path

MODEL_NAME = "hostelry-demo"

_WEIGHTS = Path(__file__).parent / "weights"


def model_path() -> Path:
    """Path of the demo model, a Q8_0 GGUF file."""
    return _WEIGHTS / f"{MODEL_NAME}.gguf"


def draft_path() -> Path:
    """Path of a one-layer model with the same tokenizer, small enough to draft for the demo model."""
    return _WEIGHTS / f"{MODEL_NAME}-draft.gguf"
