"""The oracle with a memory: rows of logits by tokens, computed once."""

from __future__ import annotations

from backends.api import F32, AdapterWeights, LoadableModel
from backends.testing.oracle import Oracle


class Reference:
    """Model and its expected logits. Created once, used by many checks."""

    def __init__(self, model: LoadableModel, adapter: AdapterWeights | None = None) -> None:
        self.model = model
        self.adapter = adapter
        self._oracle = Oracle(model, adapter)
        self._known: dict[tuple[int, ...], F32] = {}

    def rows(self, token_ids: list[int], count: int) -> F32:
        """float32 `[count, vocab]`: the logits after each of the last `count` tokens."""
        end = len(token_ids)
        return self._logits(tuple(token_ids))[end - count : end]

    def foresee(self, token_ids: list[int]) -> None:
        """Compute at once what will be needed piece by piece."""
        self._logits(tuple(token_ids))

    def adapted(self, adapter: AdapterWeights) -> Reference:
        """The same model with an adapter."""
        return Reference(self.model, adapter)

    def _logits(self, token_ids: tuple[int, ...]) -> F32:
        """Rows of `token_ids`, and perhaps of a continuation: a row depends only on what is before it."""
        for known, logits in self._known.items():
            if known[: len(token_ids)] == token_ids:
                return logits
        logits = self._oracle.logits(list(token_ids))
        self._known[token_ids] = logits
        return logits
