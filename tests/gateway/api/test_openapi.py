"""The OpenAPI document: committed, complete and valid."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from litestar import Litestar

from gateway.api.auth import LOCAL_PATHS, PUBLIC_PATHS
from gateway.api.openapi.document import document, render_document
from gateway.app import Services, create_app
from gateway.metrics import Metrics
from gateway.process.drain import Drain
from gateway.routing import Models
from tests.gateway.tenants.declared import directory_of

COMMITTED = Path(__file__).parents[3] / "openapi" / "openapi.json"


def test_committed_document_is_current() -> None:
    """`make openapi` was run after the last change."""
    assert COMMITTED.read_text(encoding="utf-8") == render_document()


def test_module_prints_it() -> None:
    """`python -m gateway.api.openapi.document` is the generator, the same in every process."""
    printed = subprocess.run(
        [sys.executable, "-m", "gateway.api.openapi.document"], capture_output=True, text=True, check=True, timeout=60
    )

    assert printed.stdout == render_document()


def test_every_route_is_described() -> None:
    """The document and the application know the same paths."""
    described = set(document()["paths"])

    assert {re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path) for route in _app().routes} == described


def test_only_public_paths_are_without_key() -> None:
    """Security is declared where the middleware requires a key, and only there."""
    open_paths = {path for path, item in document()["paths"].items() for each in item.values() if not each["security"]}

    assert open_paths == PUBLIC_PATHS
    assert LOCAL_PATHS.isdisjoint(open_paths)


def test_every_operation_is_complete() -> None:
    """Summary, id, an example of the answer, and errors with their schema."""
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            assert operation["operationId"], where
            assert operation["summary"], where
            success = operation["responses"].get("200") or operation["responses"]["201"]
            assert all("example" in content for content in success["content"].values()), where
            assert {"405", "500"} <= operation["responses"].keys(), where
            if operation["security"]:
                assert {"401", "403", "503"} <= operation["responses"].keys(), where
            if method == "post":
                assert {"400", "404", "413", "415"} <= operation["responses"].keys(), where
                assert "example" in operation["requestBody"]["content"]["application/json"], where


def test_references_lead_somewhere() -> None:
    """No `$ref` dangles."""
    whole = document()
    for reference in set(re.findall(r'"\$ref": ?"#/([^"]+)"', json.dumps(whole))):
        found = whole
        for part in reference.split("/"):
            found = found[part]

        assert found


def _app() -> Litestar:
    return create_app(Services(models=Models(), directory=directory_of(()), metrics=Metrics(), drain=Drain()))
