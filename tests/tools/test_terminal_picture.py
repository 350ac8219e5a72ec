"""The picture in README.md shows what a terminal showed, and nothing from elsewhere."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from tools.terminal_picture import PICTURE, draw


def text_of(svg: str) -> str:
    return "".join(ElementTree.fromstring(svg).itertext()).replace("\xa0", " ")


def test_picture_shows_the_output() -> None:
    """Text stays text, and escape sequences become colours."""
    svg = draw("> a question\n\x1b[2ma dim <answer>\x1b[0m\n", title="window")

    assert "> a question" in text_of(svg)
    assert "a dim <answer>" in text_of(svg)
    assert "\x1b" not in svg


def test_picture_needs_nothing_from_the_network() -> None:
    """A page that shows it loads no font and no image."""
    svg = draw("text", title="window")

    assert "url(http" not in svg
    assert "@import" not in svg


def test_committed_picture_is_of_a_successful_run() -> None:
    """The picture in README.md shows the demo's answer."""
    assert "The capital of France is Paris." in text_of(PICTURE.read_text(encoding="utf-8"))
