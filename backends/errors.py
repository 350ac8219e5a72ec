"""Errors of the two contracts, and the mapping of a library's exceptions to them.

BackendError
├── ModelError             a model cannot be loaded: file, tensor, what was expected
│   └── UnsupportedModel   readable, but this build has no rule for it
├── RequestError           this request cannot be served; nothing was accepted
│   ├── ContextLengthExceeded
│   ├── DeadlineExceeded   its time was over before it was accepted
│   └── Overloaded         try again later
│       ├── TenantQueueFull  the tenant's own requests wait already
│       └── WaitTooLong    the first token would come too late
└── RunnerError            a step failed
    ├── CapacityExceeded   roll back and shrink the batch
    ├── Retryable          roll back and run the step once more
    └── Fatal              the engine process must restart
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import msgspec


class BackendError(Exception):
    """Root of everything raised across the contracts in `backends.api`."""


class ModelError(BackendError):
    """The model's files are damaged, truncated, unsafe or contradict each other."""


class UnsupportedModel(ModelError):
    """The files are sound, but their architecture, format or tokenizer is not supported."""


class RequestError(BackendError):
    """Refused before acceptance. `param` names the request field at fault, if one is."""

    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(RequestError):
    """Prompt (plus requested output) does not fit the model's context."""

    code = "context_length_exceeded"


class DeadlineExceeded(RequestError):
    """The request's own deadline passed before the backend took it."""

    code = "deadline_exceeded"


class Overloaded(RequestError):
    """Queue or memory is full; `retry_after_s` is the honest estimate of when to try again."""

    code = "engine_overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TenantQueueFull(Overloaded):
    """This tenant has as many waiting requests as one tenant may have; other tenants are still served."""

    code = "rate_limit_exceeded"


class WaitTooLong(Overloaded):
    """The queue has room, but the first token would come later than the operator's target."""


class RunnerError(BackendError):
    """A step failed; the subclass says what the engine does next."""


class CapacityExceeded(RunnerError):
    """Not enough memory for this step; the engine rolls back and shrinks the batch."""


class Retryable(RunnerError):
    """A passing fault; the engine rolls back and runs the step once more."""


class Fatal(RunnerError):
    """The runner is unusable; the engine process restarts."""


class LibraryErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Maps the exceptions of a tensor library to errors of the contract; what is not listed passes unchanged.

    An exception means that memory ran out if it is one of `memory_kinds`, or if its message contains one of
    `memory_words`, lower case.
    """

    library: str = "the runner"
    in_steps: tuple[type[Exception], ...] = (MemoryError,)
    at_load: tuple[type[Exception], ...] = (MemoryError,)
    memory_kinds: tuple[type[Exception], ...] = (MemoryError,)
    memory_words: tuple[str, ...] = ()
    no_memory: str = "not enough memory for this step"

    def step_error(self, error: Exception) -> RunnerError:
        """Return `CapacityExceeded` if memory ran out, else `Fatal`."""
        if self._is_out_of_memory(error):
            return CapacityExceeded(f"{self.no_memory}: {error}")
        return Fatal(f"{self.library}: {error}")

    @contextmanager
    def step(self) -> Generator[None]:
        """Raise `step_error` for what is listed in `in_steps`."""
        try:
            yield
        except self.in_steps as error:
            raise self.step_error(error) from error

    @contextmanager
    def load(self, refusal: str = "could not take the weights") -> Generator[None]:
        """Raise `ModelError` for what is listed in `at_load`; `refusal` says what the library did not do."""
        try:
            yield
        except self.at_load as error:
            if self._is_out_of_memory(error):
                raise ModelError(f"not enough memory to load this model; use a quantized one: {error}") from error
            raise ModelError(f"{self.library} {refusal}: {error}") from error

    def _is_out_of_memory(self, error: Exception) -> bool:
        message = str(error).lower()
        return isinstance(error, self.memory_kinds) or any(words in message for words in self.memory_words)
