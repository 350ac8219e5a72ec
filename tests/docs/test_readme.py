"""Commands and files that README.md names exist, and the speeds in it are those of the committed results."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from click import Context

from gateway.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"
FORMATS = ("Q4_0", "Q4_K", "Q8_0")


class Ratios(msgspec.Struct):
    """Speed over llama.cpp's, by number of streams and for two lengths of prompts."""

    decode: dict[str, float]
    prompt_512: float
    prompt_128: float | None = None


class Side(msgspec.Struct):
    """One of our own servers."""

    ratios: Ratios


class Measured(msgspec.Struct, rename={"stock": "MatMulNBits"}):
    """One format."""

    kernels: Side
    stock: Side | None = None


class Result(msgspec.Struct):
    """A committed result of `benchmarks.llama_cpp`."""

    numbers: dict[str, Measured]


def code(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def rows(label: str) -> list[tuple[str, ...]]:
    """Cells behind that label, in each table that has such a row of three."""
    return [
        found.groups()
        for found in re.finditer(rf"^\| {label} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    ]


def test_links_lead_somewhere() -> None:
    """Files of this repository that the page links to exist."""
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if not link.startswith("http")]

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_exist() -> None:
    """Every `hostelry VERB` is one."""
    verbs = set(re.findall(r"(?:\$ |`|^)hostelry (\w+)", README, re.MULTILINE))

    assert {"serve", "quickstart"} <= verbs <= set(main.list_commands(Context(main)))


def test_blocks_parse() -> None:
    """The client's code is Python, the configuration is TOML."""
    for block in code("python"):
        compile(block, "README.md", "exec")
    for block in code("toml"):
        tomllib.loads(block)

    assert code("python")
    assert code("toml")


@pytest.mark.parametrize("streams", ["1", "4", "8", "16"])
def test_decode_speeds_are_measured(streams: str) -> None:
    """The first table is with the kernels, the second without, each as committed."""
    found = msgspec.json.decode((RESULTS / "llama_cpp.json").read_bytes(), type=Result).numbers
    label = f"decode, {streams} stream{'s' if streams != '1' else ''}"
    stocks = [side for side in (found[name].stock for name in FORMATS) if side is not None]

    assert rows(label) == [
        tuple(f"{found[name].kernels.ratios.decode[streams]:.2f}" for name in FORMATS),
        tuple(f"{side.ratios.decode[streams]:.2f}" for side in stocks),
    ]


def test_prompt_speeds_are_measured() -> None:
    """Prompts of 128 and of 512 tokens, each as committed."""
    found = msgspec.json.decode((RESULTS / "llama_cpp.json").read_bytes(), type=Result).numbers
    kernels = [found[name].kernels.ratios for name in FORMATS]
    stocks = [side.ratios for side in (found[name].stock for name in FORMATS) if side is not None]

    assert rows("prompt of 512 tokens") == [
        tuple(f"{each.prompt_512:.2f}" for each in side) for side in (kernels, stocks)
    ]
    assert rows("prompt of 128 tokens") == [
        tuple(f"{each.prompt_128:.2f}" for each in side) for side in (kernels, stocks)
    ]


def test_long_decode_speeds_are_measured() -> None:
    """Sixteen streams of about 1,000 tokens, from a run of their own."""
    found = msgspec.json.decode((RESULTS / "llama_cpp_long.json").read_bytes(), type=Result).numbers

    assert rows("decode, 16 streams of about 1,000 tokens") == [
        tuple(f"{found[name].kernels.ratios.decode['16']:.2f}" for name in FORMATS)
    ]
