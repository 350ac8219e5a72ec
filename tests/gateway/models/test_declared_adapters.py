"""Adapters of the configuration file and of flags, before any model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.commands.serve import with_flags
from gateway.config import AdapterConfig, Config, ModelConfig, load_config
from gateway.errors import ConfigError

MODEL = ModelConfig(path="chat.gguf", name="chat")
FILE = """\
[[models]]
path = "chat.gguf"
[[adapters]]
name = "law"
base = "chat"
path = "law"
tenants = ["acme"]
"""


def write(folder: Path, text: str = FILE) -> Path:
    (folder / "law").mkdir(exist_ok=True)
    path = folder / "hostelry.toml"
    path.write_text(text, encoding="utf-8")
    return path


def merged(config: Config, *flags: str) -> tuple[AdapterConfig, ...]:
    return with_flags(config, models=(), adapters=flags, engine={}, host=None, port=None).adapters


def test_paths_are_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to the file, wherever the server is started; absolute ones stay."""
    text = FILE.replace('path = "law"', f'path = "{tmp_path}/law"')
    monkeypatch.chdir(tmp_path)

    relative, absolute = load_config(Path(write(tmp_path).name)), load_config(write(tmp_path, text))

    assert [each.path for each in (*relative.adapters, *absolute.adapters)] == [str(tmp_path / "law")] * 2


def test_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags add to the file, win over an entry of the same name, and are resolved against the working directory."""
    config = load_config(write(tmp_path))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)

    assert merged(config) == config.adapters
    assert [(each.base, each.name, each.path, each.tenants) for each in merged(config, "chat:law=other")] == [
        ("chat", "law", str(tmp_path / "other"), ())
    ]
    assert [each.name for each in merged(config, "chat:tax=./law")] == ["law", "tax"]


@pytest.mark.parametrize("flag", ["law=x", "chat:law", "chat:=x", "chat:la w=x", ":law=x", "chat:law="])
def test_flags_that_cannot_be_read(flag: str) -> None:
    """The error shows how to write it."""
    with pytest.raises(ConfigError, match="write BASE:NAME=PATH, such as"):
        merged(Config(models=(MODEL,)), flag)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('base = "chat"', 'base = "chatt"', "adapters: law: base chatt is not served here; did you mean chat?"),
        ('base = "chat"', 'base = "x"', "adapters: law: base x is not served here; served are chat"),
        (
            'path = "law"',
            'path = "lwa"',
            "lwa is not a directory; set `path` to the directory that contains adapter_config.json",
        ),
        ('name = "law"', f'name = "{"l" * 124}"', "is longer than 128 characters; shorten its name"),
        ("[[adapters]]", FILE.partition('gguf"\n')[2] + "[[adapters]]", "2 of base chat are called law"),
    ],
)
def test_problems(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each ends the start, and `config check` finds it before."""
    path = write(tmp_path, FILE.replace(old, new, 1))

    checked = CliRunner().invoke(main, ["config", "check", str(path)])
    with pytest.raises(ConfigError) as refusal:
        merged(load_config(path))

    assert message in str(refusal.value)
    assert checked.exit_code == 2
    assert message in checked.output


def test_the_same_name_on_two_models(tmp_path: Path) -> None:
    """A tenant's default_adapter may mean one on each of its models."""
    config = load_config(write(tmp_path))
    models = (MODEL, ModelConfig(path="big.gguf", name="big"))
    both = (*config.adapters, AdapterConfig(name="law", base="big", path=str(tmp_path / "law")))

    assert merged(Config(models=models, adapters=both)) == both


def test_check_leaves_what_flags_may_say(tmp_path: Path) -> None:
    """`config check` accepts an adapter without models in the file, since its base may come from `--model`."""
    path = write(tmp_path, FILE.partition('gguf"\n')[2])

    checked = CliRunner().invoke(main, ["config", "check", str(path)])

    assert checked.exit_code == 0
    assert "0 models, 1 adapters, 0 tenants" in checked.output


def test_names(tmp_path: Path) -> None:
    """No colon, no space, no way up: a name is what clients say."""
    for name in ("a:b", "a b", "../law", ""):
        with pytest.raises(ConfigError, match=r"hostelry\.toml:4 adapters\.name"):
            load_config(write(tmp_path, FILE.replace('name = "law"', f'name = "{name}"')))
