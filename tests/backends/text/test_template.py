"""Chat templates, against transformers' `apply_chat_template`."""

from __future__ import annotations

import tracemalloc
from itertools import count
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from backends.errors import ModelError, RequestError
from backends.generation import Message
from backends.text.sandbox import MAX_CHARACTERS, MAX_SECONDS
from backends.text.template import ChatTemplate
from tests.backends.text.vocabularies import CHATML

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
QWEN = """{%- if tools %}
    {{- tools | tojson }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, seen=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.seen and message.role == "user" %}
        {%- set ns.seen = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
    {%- if loop.index0 > 100 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
ODDITIES = """{% macro line(text, width=2) %}{{ text | indent(width) }}{% endmacro %}
{% for message in messages if message.role != 'system' %}
    {% if loop.first %}{{ strftime_now('%Y') | length }}{% endif %}
    {% generation %}{{ line(message.content) }}{% endgeneration %}
  {{ {'content': message.content, 'ok': true, 'n': none} | tojson(indent=1) }}
  {{ message.get('name', 'nobody') | upper }}{{ "%s-%d" % ('x', loop.index) }}{{ '{:>3}'.format(loop.index) }}
  {% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i * 2 }}{{ 'ab' * i }}{% endfor %}
{% else %}
nothing{{ undefined_thing }}
{% endfor %}
"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "qwen": QWEN, "oddities": ODDITIES}

CONVERSATIONS = {
    "one": (Message(role="user", content="Hello  <b>&amp;</b> “world” 🙂\n"),),
    "system": (
        Message(role="system", content=" Be brief. "),
        Message(role="user", content="\tHi\n\nthere", name="Ann"),
    ),
    "long": (
        Message(role="user", content="1+1?"),
        Message(role="assistant", content="<think>\nhm\n</think>\n\n 2 "),
        Message(role="user", content="{{ 7*7 }} {% raw %}"),
    ),
}


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_as_transformers(source: str, conversation: tuple[Message, ...], add_generation_prompt: bool) -> None:
    """Each template renders each conversation as transformers does."""
    rendered = ChatTemplate(source, where="test").render(
        conversation, bos_token="<s>", eos_token="</s>", add_generation_prompt=add_generation_prompt
    )

    expected = render_jinja_template(
        conversations=[[msgspec.to_builtins(message) for message in conversation]],
        chat_template=source,
        add_generation_prompt=add_generation_prompt,
        bos_token="<s>",
        eos_token="</s>",
    )[0]
    assert [rendered] == list(expected)  # annotated as one string, but a list of them


def render(source: str, *contents: str) -> str:
    messages = [Message(role="user", content=content) for content in contents]
    return ChatTemplate(source, where="test").render(messages, bos_token="", eos_token="")


@given(st.text(max_size=80))
def test_content_is_never_a_template(content: str) -> None:
    """Message content is printed, never run as a template."""
    assert render("{{ messages[0].content }}", content) == content


def test_own_refusal_is_the_requests_fault() -> None:
    """`raise_exception` becomes a request error with the template's words."""
    template = ChatTemplate(MISTRAL, where="test")
    twice = [Message(role="user", content="a"), Message(role="user", content="b")]

    with pytest.raises(RequestError, match="roles must alternate") as caught:
        template.render(twice, bos_token="", eos_token="")

    assert caught.value.param == "messages"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ ''['__class__'].__mro__ }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ raise_exception.__globals__['os'].system('true') }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ range.__self__.__class__.__init__.__globals__ }}",
        "{{ __budget.check_time.__globals__['os'] }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'content': 'x'}) }}",
        "{{ messages.clear() }}",
    ],
)
def test_unsafe_template_is_refused_at_load(source: str) -> None:
    """A template that reaches for Python or changes its input never gets to run in service."""
    with pytest.raises(ModelError, match="unsafe chat template"):
        ChatTemplate(source, where="test")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'a' * 10**8 }}",
        "{{ 2 ** (10**8) }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set s = 'a' * 99999 %}{% for i in s %}{% for j in s %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ 'a\nb' | indent(10**9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{w}}'.format(1, w='999999999') }}",
        "{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}",
    ],
)
def test_greedy_template_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time, loops, sizes and widths are bounded: at the latest at the 5,000th look at the clock, in little memory."""
    seconds = count(step=MAX_SECONDS / 5_000)
    monkeypatch.setattr("backends.text.sandbox.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    tracemalloc.start()

    with pytest.raises(ModelError, match="unsafe chat template"):
        ChatTemplate(source, where="test")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 4 * MAX_CHARACTERS


def test_the_time_of_a_template_is_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of a template is wall-clock time."""
    monkeypatch.setattr("backends.text.sandbox.MAX_SECONDS", 0.01)

    with pytest.raises(ModelError, match=r"takes longer than 0\.01 s"):
        ChatTemplate("{% set s = 'a' * 99999 %}{% for i in s %}{% for j in s %}{% endfor %}{% endfor %}", where="test")


def test_hidden_attributes_print_nothing() -> None:
    """A hidden attribute that is only printed looks like an undefined one."""
    assert render("[{{ ''.__class__ }}{{ self._TemplateReference__context }}]", "hi") == "[]"


@pytest.mark.parametrize(
    "source", ["{{ '**{}** 12345'.format(1) }}", "{{ '12345: *%s*' % 1 }}", "{{ '{:>4}'.format(1) }}"]
)
def test_ordinary_formats_pass(source: str) -> None:
    """The width limit does not mistake other digits and stars for a width."""
    assert "1" in render(source, "hi")


def test_endless_recursion_is_stopped() -> None:
    """A macro that calls itself ends in an error, not in a crash."""
    with pytest.raises(ModelError, match="does not compile"):
        ChatTemplate("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", where="test")


@pytest.mark.parametrize("source", ["{% for %}", "{{ 'a' | lipsum }}", "{% include 'x' %}{% if %}", "{{ 1 +"])
def test_damaged_template_is_refused_at_load(source: str) -> None:
    """A template that does not compile is a fault of the model."""
    with pytest.raises(ModelError, match="test: chat template does not compile"):
        ChatTemplate(source, where="test")


@pytest.mark.parametrize("source", ["{% include '/etc/passwd' %}", "{% import 'os' as os %}{{ os }}"])
def test_templates_open_no_files(source: str) -> None:
    """Templates have no loader, so nothing can be included."""
    with pytest.raises(RequestError, match="refused the messages"):
        render(source, "hi")


def test_faults_are_one_short_line() -> None:
    """The client reads one line, whatever a template raises."""
    with pytest.raises(RequestError) as caught:
        render("{% if messages|length > 1 %}{{ raise_exception('a\nb' * 900) }}{% endif %}", "a", "b")

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_long_conversations_are_refused_beyond_the_limit() -> None:
    """The text may have four million characters and not one more."""
    assert len(render("{{ messages[0].content }}", "a" * (4 << 20))) == 4 << 20
    with pytest.raises(RequestError, match="longer than"):
        render("{{ messages[0].content }}", "a" * ((4 << 20) + 1))
