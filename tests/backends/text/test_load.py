"""Sources of tokenizer and template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from backends.errors import ModelError
from backends.generation import Message
from backends.text.load import load_text
from tests.backends.text.vocabularies import CHATML, byte_level_engine, byte_level_metadata, write_folder

HELLO = (Message(role="user", content="hello"),)


def render(path: Path) -> str:
    template = load_text(path).template
    assert template is not None
    return template.render(HELLO, bos_token="", eos_token="")


def test_template_file_comes_first(tmp_path: Path) -> None:
    """chat_template.jinja wins over tokenizer_config.json, as in transformers."""
    folder = write_folder(tmp_path, byte_level_engine())
    (folder / "chat_template.jinja").write_text("file: {{ messages[0].content }}")

    assert render(folder) == "file: hello"


def test_default_of_several_templates(tmp_path: Path) -> None:
    """The template named `default` is taken of several named ones."""
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]

    assert render(write_folder(tmp_path, byte_level_engine(), chat_template=named)) == "yes"


def test_no_default_among_several_is_refused(tmp_path: Path) -> None:
    """Several templates without one named `default` are refused."""
    named = [{"name": "rag", "template": "no"}]

    with pytest.raises(ModelError, match="lists rag, but none named 'default'"):
        load_text(write_folder(tmp_path, byte_level_engine(), chat_template=named))


def test_model_without_template(tmp_path: Path) -> None:
    """A base model loads; it just has no template."""
    assert load_text(write_folder(tmp_path, byte_level_engine(), chat_template=None)).template is None


def test_unsafe_template_names_its_file(tmp_path: Path) -> None:
    """The operator reads which file is unsafe."""
    folder = write_folder(tmp_path, byte_level_engine(), chat_template="{{ ''.__class__.__mro__ }}")

    with pytest.raises(ModelError, match=r"tokenizer_config\.json: unsafe chat template"):
        load_text(folder)


def write_gguf(path: Path, template: str) -> Path:
    metadata: dict[str, Any] = dict(byte_level_metadata("qwen2"))  # Any: what is which kind is known here
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(list(metadata["tokenizer.ggml.tokens"]))
    writer.add_token_merges(list(metadata["tokenizer.ggml.merges"]))
    writer.add_token_types(list(metadata["tokenizer.ggml.token_type"]))
    writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_gguf_template(tmp_path: Path) -> None:
    """A GGUF file brings its template along."""
    path = write_gguf(tmp_path / "model.gguf", CHATML)

    assert render(path) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_unsafe_gguf_template_never_runs(tmp_path: Path) -> None:
    """The payload of CVE-2024-34359 is refused at load and leaves no trace."""
    marker = tmp_path / "marker"
    payload = (
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% if c.__name__ == 'Popen' %}"
        "{{ c(['touch', '" + str(marker) + "']) }}{% endif %}{% endfor %}"
    )

    with pytest.raises(ModelError, match="unsafe chat template"):
        load_text(write_gguf(tmp_path / "model.gguf", payload))

    assert not marker.exists()
