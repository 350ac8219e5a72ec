"""Nothing a user can set, call or read goes undocumented."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest
from click import Context
from prometheus_client.parser import text_string_to_metric_families

from backends.models.families.table import GGUF, HUGGING_FACE
from backends.registry import BUILT_IN_RUNNERS
from gateway.api.problems import TABLE
from gateway.cli import main
from gateway.config import Config
from gateway.metrics import Metrics
from gateway.routing import Models

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")


def settings(struct: type[msgspec.Struct] = Config, prefix: str = "") -> list[str]:
    names: list[str] = []
    for field in msgspec.structs.fields(struct):
        kinds = (field.type, *get_args(field.type))
        nested = next((k for k in kinds if isinstance(k, type) and issubclass(k, msgspec.Struct)), None)
        names += settings(nested, f"{prefix}{field.name}.") if nested else [prefix + field.name]
    return names


@pytest.mark.parametrize("name", settings())
def test_setting_is_documented(name: str) -> None:
    """Every key of the configuration file has a row."""
    assert f"`{name}`" in REFERENCE


@pytest.mark.parametrize("name", main.list_commands(Context(main)))
def test_command_is_documented(name: str) -> None:
    """Every verb has a row."""
    assert f"| `hostelry {name}` |" in REFERENCE


@pytest.mark.parametrize("code", sorted({rule.code for rule in TABLE.values() if rule.code}))
def test_error_code_is_documented(code: str) -> None:
    """Every code that a client may branch on has a row."""
    assert f"`{code}`" in REFERENCE


def test_metrics_are_documented() -> None:
    """Every metric that `/metrics` shows has a row."""
    metrics = Metrics()
    metrics.watch(Models())
    families = {
        sample.name.removesuffix("_bucket").removesuffix("_created")
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    } | {family.name for family in text_string_to_metric_families(metrics.render().decode())}

    assert families
    assert [name for name in families if name not in REFERENCE] == []


@pytest.mark.parametrize("name", sorted({*HUGGING_FACE, *GGUF, *BUILT_IN_RUNNERS} - {"fake"}))
def test_architecture_and_runner_is_documented(name: str) -> None:
    """Every architecture that can be opened and every engine that can be asked for has a row."""
    assert f"`{name}`" in REFERENCE


def test_routes_are_documented() -> None:
    """Every path of the OpenAPI document has a row."""
    paths = msgspec.json.decode((DOCS.parent / "openapi" / "openapi.json").read_bytes())["paths"]

    assert [path for path in paths if path not in REFERENCE] == []


def test_there_are_at_most_ten_documents() -> None:
    """More would not be read."""
    assert len(list(DOCS.glob("*.md"))) <= 10
