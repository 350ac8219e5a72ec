"""Every operation of the document, with requests made from its schemas: answers are what it says, and never a fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from e2e.harness.nonce import SEED
from e2e.harness.server import Server
from gateway.api.openapi.document import document

ADMIN_KEY, KEY = "sk-admin-openapi-0123456789", "sk-ho-openapi-0123456789"
CASES = 25
NOT_CLAIMED = [
    positive_data_acceptance,  # a schema cannot say which parameters go together or which tenants there are
    ignored_auth,  # /metrics is open to this machine
]
OPERATIONS = [(method.upper(), path) for path, item in document()["paths"].items() for method in item]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = str(tmp_path_factory.mktemp("openapi"))
    server = Server(["--port", "0", "--data-dir", folder, "--api-key", KEY, "--admin-key", ADMIN_KEY])
    try:
        yield server.wait_ready()
    finally:
        server.stop()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_operation(url: str, method: str, path: str) -> None:
    """Sound and unsound requests: a documented status, a body of its schema, no 500."""
    schema = schemathesis.openapi.from_dict(document())
    operation = schema[path][method]
    key = ADMIN_KEY if path.startswith("/admin") else KEY

    @seed(SEED)
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy())
    def send(case: schemathesis.Case[Any]) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        # schemathesis leaves out the parameter of `Case`
        case.call_and_validate(base_url=url, headers=headers, excluded_checks=NOT_CLAIMED)  # ty: ignore[invalid-argument-type]  # see above

    send()
