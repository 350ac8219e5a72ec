"""The Jinja environment of chat templates.

Templates come with models and are not trusted: no attribute leads to Python's internals, nothing given to them can be
changed, time is limited, and operators and numeric options cannot make something huge. The dialect is that of
transformers' `apply_chat_template`.
"""

from __future__ import annotations

import builtins
import functools
import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 4 << 20
"""Longest text that a template may build, in part or as a whole."""

MAX_SECONDS = 1.0
"""Longest that one rendering may take."""

BUDGET = "__budget"
"""The variable that carries the `RenderBudget` of a rendering."""

_MAX_ARGUMENT = 100_000  # as Jinja's own MAX_RANGE
_MAX_EXPONENT = 64
_HUGE_PERCENT_WIDTH = re.compile(r"%[^a-zA-Z%]*(?:\d{5}|\*)")
_HUGE_FORMAT_WIDTH = re.compile(r":[^{}]*\d{5}|\{[^{}]+\{")  # the second: a width from another argument
_REMOVED_GLOBALS = ("lipsum", "cycler", "joiner")
_REMOVED_FILTERS = ("format", "pprint")
_SEQUENCES = (str, list, tuple)

TemplateValue = Any  # whatever a template computes


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Raises `SecurityError` for what is refused; other faults of a template are `TemplateError`s or Python's own."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        self.code_generator_class = _CheckedCode
        for name in _REMOVED_GLOBALS:
            del self.globals[name]
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        self.filters = {name: _bounded(function) for name, function in self.filters.items()}
        self.filters["tojson"] = _bounded(_to_json)
        more = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.globals |= more  # ty: ignore[unsupported-operator]  # Jinja states no type, ty infers that of its own globals

    def call(  # the names are Jinja's, so that they meet no keyword argument of a template
        self, __context: Context, __obj: TemplateValue, *args: TemplateValue, **kwargs: TemplateValue
    ) -> TemplateValue:
        self.tick(__context)
        _check_numbers([*args, *kwargs.values()])
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: TemplateValue, right: TemplateValue) -> TemplateValue:
        _check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: TemplateValue) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _HUGE_FORMAT_WIDTH.search(value.__self__):
            raise SecurityError("a formatted width above 9999")
        return wrapped

    def tick(self, context: Context) -> None:
        """Runs at each call and at each turn of a loop."""
        context.parent[BUDGET].check_time()

    def concatenate(self, *parts: TemplateValue) -> str:
        """The operator `~`."""
        texts = [str(part) for part in parts]
        _check_size(sum(map(len, texts)))
        return "".join(texts)


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model is trained on; here it is only its contents."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _CheckedCode(CodeGenerator):
    """Compiles checks into what Jinja offers no hook for: `a ~ b` and loops."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenate(")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [nodes.ContextReference()], [], None, None)
        node.body.insert(0, nodes.ExprStmt(tick).set_lineno(node.lineno))
        super().visit_For(node, frame)

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        if isinstance(node.node, nodes.EnvironmentAttribute):  # only the tick: templates cannot spell one
            self.write("environment.tick(context)")
            return
        super().visit_Call(node, frame, forward_caller=forward_caller)


class RenderBudget:
    """Limits of one rendering: time, and turns of `range` in total."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + MAX_SECONDS
        self._turns_left = _MAX_ARGUMENT

    def check_time(self) -> None:
        """Raise `SecurityError` after `MAX_SECONDS`."""
        if time.monotonic() > self._deadline:
            raise SecurityError(f"rendering takes longer than {MAX_SECONDS} s")

    def range(self, *bounds: int) -> builtins.range:
        """Python's `range`, as the template sees it."""
        made = range(*bounds)
        self._turns_left -= len(made)
        if self._turns_left < 0:
            raise SecurityError(f"the template counts above {_MAX_ARGUMENT}")
        return made


def _bounded(function: Callable[..., TemplateValue]) -> Callable[..., TemplateValue]:
    """A filter whose numeric options are bounded; the first argument is the filtered value or Jinja's context."""

    @functools.wraps(function)  # copies Jinja's marks for filters that take the context
    def checked(*args: TemplateValue, **kwargs: TemplateValue) -> TemplateValue:
        _check_numbers([*args[1:], *kwargs.values()])
        return function(*args, **kwargs)

    return checked


def _check_numbers(values: list[TemplateValue]) -> None:
    if any(isinstance(value, int) and abs(value) > _MAX_ARGUMENT for value in values):
        raise SecurityError(f"a number above {_MAX_ARGUMENT} as an argument")


def _check_operation(operator: str, left: TemplateValue, right: TemplateValue) -> None:
    if operator == "**" and isinstance(right, int) and abs(right) > _MAX_EXPONENT:
        raise SecurityError(f"a power above {_MAX_EXPONENT}")
    if operator == "%" and isinstance(left, str) and _HUGE_PERCENT_WIDTH.search(left):
        raise SecurityError("a formatted width above 9999")
    if operator == "+" and isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        _check_size(len(left) + len(right))
    if operator == "*":
        _check_size(_repeated_length(left, right))


def _repeated_length(left: TemplateValue, right: TemplateValue) -> int:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, _SEQUENCES) and isinstance(count, int):
            return len(sequence) * count
    return 0


def _check_size(length: int) -> None:
    if length > MAX_CHARACTERS:
        raise SecurityError(f"a value longer than {MAX_CHARACTERS}")


def _to_json(
    value: TemplateValue,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` as transformers defines it: no HTML escapes, no ASCII escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
