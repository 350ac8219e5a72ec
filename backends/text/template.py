"""A model's chat template: where it is kept, and conversations to the text that the model was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
import msgspec
from jinja2.exceptions import SecurityError, TemplateError

from backends.errors import ModelError, RequestError
from backends.generation import Message
from backends.text.gguf_vocabulary import TokenizerKey
from backends.text.sandbox import BUDGET, MAX_CHARACTERS, ChatEnvironment, RenderBudget
from backends.text.tokenizer_files import CONFIG_FILE, TokenizerConfig
from backends.weights.files import open_regular
from backends.weights.gguf import Metadata

DEFAULT = "default"
"""The name of the template that is used; others are for tools and the like."""

_JINJA_FILE = "chat_template.jinja"
_MAX_BYTES = 1 << 20


class TemplateSource(msgspec.Struct, frozen=True):
    """`where` names the file, for messages."""

    text: str
    where: str
    name: str = DEFAULT


def templates_of_folder(folder: Path, config: TokenizerConfig) -> tuple[TemplateSource, ...] | None:
    """chat_template.jinja, else the templates in tokenizer_config.json; `None` for a model without."""
    path = folder / _JINJA_FILE
    if path.exists():
        return (TemplateSource(_read(path), str(path)),)
    where = str(folder / CONFIG_FILE)
    if config.chat_template is None:
        return None
    if isinstance(config.chat_template, str):
        return (TemplateSource(config.chat_template, where),)
    return tuple(TemplateSource(named.template, where, named.name) for named in config.chat_template)


def template_of_folder(folder: Path, config: TokenizerConfig) -> TemplateSource | None:
    """The folder's template, of several the one named `default`."""
    templates = templates_of_folder(folder, config)
    if templates is None:
        return None
    named = {template.name: template for template in templates}
    if DEFAULT not in named:
        where = folder / CONFIG_FILE
        raise ModelError(f"{where}: chat_template lists {', '.join(named) or 'nothing'}, but none named {DEFAULT!r}")
    return named[DEFAULT]


def template_of_metadata(metadata: Metadata, *, where: str) -> TemplateSource | None:
    """The template that a GGUF file holds."""
    text = metadata.get(TokenizerKey.CHAT_TEMPLATE)
    if text is None:
        return None
    if not isinstance(text, str):
        raise ModelError(f"{where}: {TokenizerKey.CHAT_TEMPLATE} is not a string")
    return TemplateSource(text, where)


def _read(path: Path) -> str:
    with open_regular(path) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ModelError(f"{path}: larger than {_MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8: {error}") from error


_PROBE = (Message(role="user", content="Hello"),)

# What a template of any origin may raise on messages that it was not made for.
_TEMPLATE_FAULTS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)


class ChatTemplate:
    """One compiled template; `render` may run in several threads at once."""

    def __init__(self, source: str, *, where: str) -> None:
        """Raises `ModelError` if the template does not compile, or does forbidden things to a plain conversation."""
        self.source = source
        try:
            self._template = ChatEnvironment().from_string(source)
            # A chain of maps as Jinja makes it, which each rendering copies: slowly unless it is a plain dict.
            self._template.globals = dict(self._template.globals)
            self._render(_PROBE, bos_token="", eos_token="", add_generation_prompt=True)
        except SecurityError as error:
            raise ModelError(f"{where}: unsafe chat template: {_one_line(error)}") from error
        except (jinja2.TemplateSyntaxError, RecursionError) as error:
            raise ModelError(f"{where}: chat template does not compile: {_one_line(error)}") from error
        except _TEMPLATE_FAULTS:
            pass  # the template may insist on another conversation than the probe

    def render(
        self, messages: Sequence[Message], *, bos_token: str, eos_token: str, add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text. Linear in its length for real templates; long ones belong off the event loop.

        Raises `RequestError` with the template's own reason if it refuses the messages, and if the text gets longer
        than `MAX_CHARACTERS` or takes too long.
        """
        try:
            return self._render(
                messages, bos_token=bos_token, eos_token=eos_token, add_generation_prompt=add_generation_prompt
            )
        except _TEMPLATE_FAULTS as error:
            raise RequestError(
                f"the model's chat template refused the messages: {_one_line(error)}", param="messages"
            ) from error

    def _render(
        self, messages: Sequence[Message], *, bos_token: str, eos_token: str, add_generation_prompt: bool
    ) -> str:
        budget = RenderBudget()
        variables: dict[str, object] = {BUDGET: budget, "range": budget.range}
        chunks = self._template.generate(
            variables,
            messages=[_as_variables(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
            tools=None,
            documents=None,
        )
        return "".join(_within_limits(chunks, budget))


def _as_variables(message: Message) -> dict[str, str]:
    variables = {"role": message.role, "content": message.content}
    return variables if message.name is None else {**variables, "name": message.name}


def _within_limits(chunks: Iterator[str], budget: RenderBudget) -> Iterator[str]:
    length = 0
    for chunk in chunks:
        budget.check_time()
        length += len(chunk)
        if length > MAX_CHARACTERS:
            raise SecurityError(f"the text is longer than {MAX_CHARACTERS} characters")
        yield chunk


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
