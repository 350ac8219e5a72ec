"""The table from exception to answer."""

from __future__ import annotations

import inspect

import pytest
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from backends import errors as backend_errors
from backends.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    Overloaded,
    RequestError,
    TenantQueueFull,
    WaitTooLong,
)
from gateway import errors
from gateway.api.problems import TABLE, problem_of
from gateway.errors import GatewayError, GenerationFailed


def _raised_at_the_edge() -> list[type[Exception]]:
    ours = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, GatewayError)]
    theirs = [kind for _, kind in inspect.getmembers(backend_errors, inspect.isclass) if issubclass(kind, RequestError)]
    return [kind for kind in ours + theirs if kind is not GatewayError]


@pytest.mark.parametrize("kind", _raised_at_the_edge())
def test_every_class_has_a_rule(kind: type[Exception]) -> None:
    """Nothing that we raise ends as an unexpected error."""
    assert any(each in TABLE for each in kind.__mro__)


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (RequestError("no", param="seed"), 400, None, "seed"),
        (ContextLengthExceeded("long", param="messages"), 400, "context_length_exceeded", "messages"),
        (Overloaded("full"), 503, "engine_overloaded", None),
        (WaitTooLong("slow"), 503, "engine_overloaded", None),
        (DeadlineExceeded("late", param="deadline_s"), 504, "deadline_exceeded", "deadline_s"),
        (GenerationFailed("late", code="deadline_exceeded"), 504, "deadline_exceeded", None),
        (GenerationFailed("died", code="engine_failed"), 500, "engine_failed", None),
        (GenerationFailed("closing", code="server_shutdown"), 503, "server_shutdown", None),
        (GenerationFailed("gone", code="upstream_unreachable"), 502, "upstream_unreachable", None),
        (NotFoundException(), 404, "not_found", None),
        (MethodNotAllowedException(headers={"allow": "GET, OPTIONS"}), 405, "method_not_allowed", None),
        (HTTPException(status_code=400, detail="Invalid host header"), 400, None, None),
    ],
)
def test_rules(error: Exception, status: int, code: str | None, param: str | None) -> None:
    """The most derived rule wins; code and param are the exception's own."""
    problem = problem_of(error, request_id="r")

    detail = problem.body.error
    assert (problem.status, detail.code, detail.param) == (status, code, param)
    assert detail.type == ("server_error" if status >= 500 else "invalid_request_error")


@pytest.mark.parametrize("error", [ValueError("secret"), HTTPException(status_code=500, detail="secret")])
def test_unexpected_errors_are_logged_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the request id, the log gets the traceback."""
    problem = problem_of(error, request_id="req_1")

    assert problem.status == 500
    assert "secret" not in problem.body.error.message
    assert "req_1" in problem.body.error.message
    (record,) = caplog.records
    assert record.exc_info
    assert record.exc_info[1] is error


def test_a_full_queue_of_the_tenant_is_its_own_limit() -> None:
    """429 as for any limit of the tenant, with a time to come back."""
    problem = problem_of(TenantQueueFull("full", retry_after_s=3), request_id="r")

    assert (problem.status, problem.body.error.code) == (429, "rate_limit_exceeded")
    assert problem.body.error.type == "rate_limit_error"
    assert dict(problem.headers)[b"retry-after"] == b"3"


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), GenerationFailed("late", code="deadline_exceeded")])
def test_a_deadline_is_not_to_be_tried_again(error: Exception) -> None:
    """Clients that would send it again by themselves are told not to."""
    assert problem_of(error, request_id="r").headers == ((b"x-should-retry", b"false"),)


def test_retry_after_is_whole_seconds_and_exact_milliseconds() -> None:
    """Seconds are rounded up, so that no client comes too early."""
    headers = dict(problem_of(Overloaded("full", retry_after_s=0.25), request_id="r").headers)

    assert headers == {b"retry-after": b"1", b"retry-after-ms": b"250"}
