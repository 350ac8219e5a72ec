"""`docs/write-a-backend.md` explains the whole contract and quotes the example as it is."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click import Context

from backends import api, errors, registry
from backends.api import KVPlan, RunnerCapabilities, Step
from backends.models.ops import Ops
from backends.steps import check_step
from backends.testing.kit.suite import RunnerSuite
from gateway.cli import main

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "hostelry-numpy-runner"
TUTORIAL = (DOCS / "write-a-backend.md").read_text(encoding="utf-8")
EXCERPTS = re.findall(r"<!-- excerpt: (\S+) -->\n```\w+\n(.*?)```", TUTORIAL, re.DOTALL)
CONTRACT = [kind for kind in vars(api).values() if inspect.isclass(kind) and kind.__module__ == api.__name__]
STEP_ERRORS = (errors.CapacityExceeded, errors.Retryable, errors.Fatal, errors.ModelError, errors.UnsupportedModel)


def is_named(name: str, text: str) -> bool:
    """True if the text names it in backticks, alone or with arguments."""
    return re.search(rf"`{name}(\(.*?\))?`", text) is not None


def section(kind: type) -> str:
    """The text under the heading that names this class, up to the next heading."""
    found = re.search(rf"^#+ .*`{kind.__name__}`\n(.*?)(?=^#+ |\Z)", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no heading names `{kind.__name__}`"
    return found[1]


def members(kind: type) -> list[str]:
    """Public methods, properties and fields of its own."""
    fields = kind.__struct_fields__ if issubclass(kind, msgspec.Struct) else ()
    return [*fields, *(name for name in vars(kind) if not name.startswith("_") and name not in fields)]


@pytest.mark.parametrize("kind", CONTRACT, ids=lambda kind: kind.__name__)
def test_every_member_of_the_contract_is_explained(kind: type) -> None:
    """Each class of `backends.api` has a section, which names each method and field."""
    explained = section(kind)

    assert members(kind)
    assert [name for name in members(kind) if not is_named(name, explained)] == []


def test_everything_else_a_runner_meets_is_named() -> None:
    """Operations, errors, entry-point groups, fixtures of the suite, the version."""
    operations = [name for name in vars(Ops) if not name.startswith("_")]
    fixtures = [
        name for name in inspect.signature(RunnerSuite.test_contract).parameters if name not in ("self", "case")
    ]
    names = [*operations, *(error.__name__ for error in STEP_ERRORS), *fixtures]
    names += [registry.RUNNERS_GROUP, registry.BACKENDS_GROUP]

    assert [name for name in names if not is_named(name, TUTORIAL)] == []
    assert f"`API_VERSION` = {api.API_VERSION}" in TUTORIAL


@pytest.mark.parametrize(("file", "excerpt"), EXCERPTS)
def test_excerpts_are_the_example(file: str, excerpt: str) -> None:
    """Letter by letter, in one piece, beginning at a line of the file."""
    source = (EXAMPLE / file).read_text(encoding="utf-8")

    assert f"\n{excerpt}" in source


def test_python_in_the_tutorial_is_excerpted_or_compiles() -> None:
    """Excerpts are most of it; what is not one is at least Python."""
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    excerpts = [text for file, text in EXCERPTS if file.endswith(".py")]

    others = [block for block in blocks if block not in excerpts]
    assert len(excerpts) >= 5
    for block in others:
        compile(textwrap.dedent(block), "write-a-backend.md", "exec")


def test_the_step_of_the_picture_is_sound() -> None:
    """A reader may take it as an example: it keeps every rule of `Step`."""
    rows = {name: [int(number) for number in re.findall(r"-?\d+", body)] for name, body in _picture_rows()}
    plan = KVPlan(layout="slot", num_blocks=6, block_tokens=64, bytes_per_block=1)
    capabilities = RunnerCapabilities(kv_layouts=("slot",), formats=("F32",), max_verify_rows=3, lora_slots=2)
    names = ("positions", "q_start", "kv_len", "slot", "logit_rows", "lora")
    positions, q_start, kv_len, slot, logit_rows, lora = (np.array(rows[name], np.int32) for name in names)
    step = Step(
        token_ids=np.array(rows["token_ids"], np.int64),
        positions=positions,
        q_start=q_start,
        kv_len=kv_len,
        slot=slot,
        logit_rows=logit_rows,
        lora=lora,
    )

    check_step(step, plan, max_context=64, vocab_size=100, capabilities=capabilities)

    assert (step.num_sequences, step.num_tokens, len(step.logit_rows)) == (3, 8, 5)


def _picture_rows() -> list[tuple[str, str]]:
    """(Field, what stands in its brackets)."""
    picture = section(Step).split("```text\n")[1].split("```")[0]
    return re.findall(r"^(\w+) +\[(.*?)\]", picture, re.MULTILINE)


def test_commands_of_the_tutorial_exist() -> None:
    """Commands that the tutorial tells readers to type exist."""
    verbs = set(re.findall(r"(?:\$ |`)hostelry (\w+)", TUTORIAL))

    assert {"runner", "serve"} <= verbs <= set(main.list_commands(Context(main)))


@pytest.mark.parametrize(
    ("page", "most"), [(EXAMPLE / "hostelry_numpy.py", 200), (Path(inspect.getfile(api)), 400)], ids=["example", "api"]
)
def test_it_stays_short(page: Path, most: int) -> None:
    """A stranger reads the contract and the example in one sitting."""
    assert len(page.read_text(encoding="utf-8").splitlines()) <= most
