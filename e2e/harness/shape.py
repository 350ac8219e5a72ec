"""Shape of every error answer, and what must never be in one."""

from __future__ import annotations

import re

import httpx

from e2e.harness.wire import Json

LEAKS = re.compile(r"Traceback| at 0x[0-9a-f]+|site-packages|\.py\", line")


def assert_error(response: httpx.Response, *statuses: int, code: str | None = None) -> Json:
    """The OpenAI error object with one of these statuses, a request id and no insides. Returns the object."""
    assert response.status_code in statuses, f"{response.status_code}, not {statuses}: {response.text[:500]}"
    assert response.headers.get("x-request-id"), "no x-request-id header"
    assert response.headers["content-type"].startswith("application/json"), response.headers["content-type"]
    return assert_error_body(response.text, response.json(), code=code)


def assert_error_body(text: str, body: object, *, code: str | None = None) -> Json:
    assert_no_leak(text)
    assert isinstance(body, dict), text[:500]
    assert set(body) - {"request_id"} == {"error"}, text[:500]
    error: Json = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str), error
    assert error["message"], error
    assert isinstance(error["type"], str), error
    assert isinstance(error["param"], str | None), error
    assert isinstance(error["code"], str | None), error
    assert code is None or error["code"] == code, error
    return error


def assert_no_leak(text: str) -> None:
    found = LEAKS.search(text)
    assert found is None, f"leaks {found.group()!r}: {text[:500]}"
