"""Opens a model: a path becomes a `LoadableModel`, or an error that says what is wrong with it."""

from __future__ import annotations

from backends.loading.open import open_model

__all__ = ["open_model"]
