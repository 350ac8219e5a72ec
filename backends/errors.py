"""Errors of the two contracts.

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
