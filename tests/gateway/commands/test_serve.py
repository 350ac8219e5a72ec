from __future__ import annotations

from pathlib import Path

import pytest

from gateway.commands.serve import model_name, with_flags, with_keys
from gateway.config import Config, ModelConfig, ServerConfig
from gateway.errors import ConfigError
from gateway.tenants.records import TenantConfig

NO_ENGINE_FLAGS: dict[str, str | int | bool | None] = {}


@pytest.mark.parametrize(
    ("reference", "name"),
    [("./models/tiny.gguf", "tiny"), ("/m/Llama-3/", "Llama-3"), ("org/name", "name"), ("org/name:Q4_K_M", "name")],
)
def test_models_are_named_after_their_last_part(reference: str, name: str) -> None:
    """A model without a name of its own is called what people call the file."""
    assert model_name(reference) == name


def test_flags_win_over_the_file() -> None:
    """`--model` replaces the file's models, engine flags reach every model, host and port replace the server's."""
    config = Config(models=(ModelConfig(path="old"),), server=ServerConfig(port=1))

    merged = with_flags(config, models=("chat=a.gguf", "b.gguf"), engine={"max_batch": 3}, host=None, port=7)

    assert [(model.name, model.path, model.max_batch) for model in merged.models] == [
        ("chat", "a.gguf", 3),
        ("b", "b.gguf", 3),
    ]
    assert merged.server == ServerConfig(port=7)


def test_no_model_means_the_demo_model() -> None:
    """The first start needs no download."""
    merged = with_flags(Config(), models=(), engine=NO_ENGINE_FLAGS, host=None, port=None)

    assert [model.name for model in merged.models] == ["hostelry-demo"]


def test_names_are_unique() -> None:
    """Two models under one name would hide each other."""
    with pytest.raises(ConfigError, match="NAME=PATH"):
        with_flags(Config(), models=("a=x.gguf", "a=y.gguf"), engine=NO_ENGINE_FLAGS, host=None, port=None)


def test_models_of_the_file_get_a_name() -> None:
    """A `[[models]]` without a name is called after its path."""
    config = Config(models=(ModelConfig(path="/m/chat.gguf"),))

    merged = with_flags(config, models=(), engine=NO_ENGINE_FLAGS, host=None, port=None)

    assert merged.models[0].name == "chat"


def test_open_address_without_keys_is_refused(tmp_path: Path) -> None:
    """A server that other machines can reach never starts with a generated key."""
    with pytest.raises(ConfigError, match="--api-key"):
        with_keys(Config(server=ServerConfig(host="0.0.0.0")), None, tmp_path)


def test_api_key_belongs_to_the_default_tenant(tmp_path: Path) -> None:
    """`--api-key` adds a tenant to the declared ones."""
    config = Config(tenants=(TenantConfig(name="acme", keys=("sk-87654321",)),))

    merged, _ = with_keys(config, "sk-12345678", tmp_path)

    assert [tenant.name for tenant in merged.tenants] == ["acme", "default"]


def test_first_start_shows_the_key_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Later starts use the stored key and do not print it."""
    _, first_hint = with_keys(Config(), None, tmp_path)
    shown = capsys.readouterr().err
    _, second_hint = with_keys(Config(), None, tmp_path)

    assert first_hint.startswith("sk-ho-")
    assert first_hint in shown
    assert first_hint not in capsys.readouterr().err + second_hint
