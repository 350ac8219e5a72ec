"""The bundled demo model: a tiny Llama, trained from scratch, that knows the capitals of the world.

Importing this package costs nothing: the code that trains, scores and exports lives in its modules and brings
its own heavy imports.
"""

from pathlib import Path

MODEL_NAME = "hostelry-demo"

_WEIGHTS = Path(__file__).parent / "weights"


def model_path() -> Path:
    """The demo model, a Q8_0 GGUF file."""
    return _WEIGHTS / f"{MODEL_NAME}.gguf"


def draft_path() -> Path:
    """A one-layer model with the same tokenizer, small enough to draft for the demo model."""
    return _WEIGHTS / f"{MODEL_NAME}-draft.gguf"
