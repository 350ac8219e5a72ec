from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config, load_config
from gateway.errors import ConfigError


def write(directory: Path, text: str) -> Path:
    path = directory / "hostelry.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """Nothing is required."""
    assert load_config(write(tmp_path, "")) == Config()


def test_values_arrive_where_they_belong(tmp_path: Path) -> None:
    """Tables become frozen structs."""
    tables = ["[server]", "port = 9000", "[[models]]", 'path = "m.gguf"', "max_batch = 4"]
    text = "\n".join([*tables, "[[tenants]]", 'name = "acme"', 'keys = ["sk-12345678"]'])

    config = load_config(write(tmp_path, text))

    assert config.server.port == 9000
    assert config.models[0].max_batch == 4
    assert config.tenants[0].keys == ("sk-12345678",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1", 'hostelry.toml:2 server.prot: unknown key, did you mean "port"?'),
        ("\n[srver]\nport = 1", 'hostelry.toml:2 srver: unknown key, did you mean "server"?'),
        ('[[models]]\npath = "x"\n\n[[models]]\npath = "y"\nmax_bach = 2', "hostelry.toml:6 models.max_bach"),
        ("[server]\n# a remark\nport = 99999", "hostelry.toml:3 server.port: Expected `int` <= 65535"),
        ("data_dir = 3", "hostelry.toml:1 data_dir: Expected `str | null`"),
        ("[server", "not valid TOML"),
        ('[[tenants]]\nname = "a"\nkeys = ["short"]', "hostelry.toml:3 tenants.keys"),
    ],
)
def test_problems_name_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    """Every problem can be found and mended from its message alone."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))

    assert message in str(caught.value)


def test_all_unknown_keys_are_told_at_once(tmp_path: Path) -> None:
    """One start shows all typos."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "[server]\nprot = 1\nhots = 2"))

    assert len(str(caught.value).splitlines()) == 2


def test_secret_values_stay_out_of_messages(tmp_path: Path) -> None:
    """A key with a mistake around it is not printed."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, '[[tenants]]\nname = "a"\nkeys = ["sk1234"]'))

    assert "sk1234" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A path that is not there is an error, never a silent default."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.toml")


def test_a_former_key_goes_on_working(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A former key is read as its new name, which is logged once however many models have it."""
    path = tmp_path / "hostelry.toml"
    path.write_text('[[models]]\npath = "a"\nprefill_stretch = 2.5\n[[models]]\npath = "b"\nprefill_stretch = 0\n')

    config = load_config(path)

    assert [model.max_decode_slowdown for model in config.models] == [2.5, 0.0]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: models.prefill_stretch is now called max_decode_slowdown; the former name still works"
    ]


def test_both_names_of_a_key_are_refused(tmp_path: Path) -> None:
    """A table with both the former and the new key is refused, since either could be meant."""
    path = tmp_path / "hostelry.toml"
    path.write_text('[[models]]\npath = "a"\nprefill_stretch = 2\nmax_decode_slowdown = 3\n')

    with pytest.raises(ConfigError, match="former name of max_decode_slowdown; keep only max_decode_slowdown"):
        load_config(path)


@pytest.mark.parametrize("models", ["[1]", '["prefill_stretch"]', "1", '"prefill_stretch"'])
def test_models_that_are_no_tables_are_refused(tmp_path: Path, models: str) -> None:
    """Values without keys have no former names either, and are refused like any other wrong value."""
    path = tmp_path / "hostelry.toml"
    path.write_text(f"models = {models}\n")

    with pytest.raises(ConfigError, match="models"):
        load_config(path)
