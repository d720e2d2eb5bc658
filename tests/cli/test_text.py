"""Text of the user's on its way to a terminal or a program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.cli.text import a, as_line, beginning, plural, printable, short_repr, shorten


@dataclass
class Point:
    x: int
    y: int


class Opaque:
    def __repr__(self) -> str:
        return "<opaque\nthing>"


class Rude:
    def __repr__(self) -> str:
        raise KeyError("no")


class Odd:
    def tolist(self) -> Any:
        raise KeyError("no")

    def __repr__(self) -> str:
        return "<odd>"


def test_what_a_terminal_would_obey_is_shown_as_an_escape() -> None:
    assert printable("a\x1b[31mb\x9bc\u202ed") == "a\\x1b[31mb\\x9bc\\u202ed"
    assert printable("plain\n\tüñí 漢字") == "plain\n\tüñí 漢字"
    assert printable("half \ud800") == "half \\ud800"


def test_a_long_text_is_cut_to_its_first_line_with_an_ellipsis() -> None:
    assert shorten("short", 10) == "short"
    assert shorten("0123456789abc", 10) == "012345678…"
    assert shorten("one\ntwo", 10) == "one…"


def test_a_repr_is_cut_and_its_errors_are_named() -> None:
    assert short_repr({"a": 1}) == "{'a': 1}"
    assert len(short_repr(list(range(10**6)))) < 200
    assert len(short_repr("x" * 10**6, 50)) <= 50
    assert short_repr(Opaque()) == "<opaque thing>"
    assert "Rude" in short_repr(Rude())


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("as it is", "as it is"),
        (3, "3"),
        (None, "null"),
        ({"a": [1, 2.5, True]}, '{"a": [1, 2.5, true]}'),
        (Point(1, 2), '{"x": 1, "y": 2}'),
        (Path("/a/b"), '"/a/b"'),
        (np.int64(7), "7"),
        ([np.float64(0.5), np.arange(3)], "[0.5, [0, 1, 2]]"),
        ("ü", "ü"),
        (b"\x00a", "b'\\x00a'"),
        ({"a": b"b"}, "{'a': b'b'}"),
        (Opaque(), "<opaque thing>"),
        ({1, 2}, "[1, 2]"),
        ("two\nlines", '"two\\nlines"'),
        ([float("nan")], "[nan]"),
        (float("inf"), "inf"),
        pytest.param(10**5000, "(its repr raised ValueError)", id="long"),
        (Odd(), "<odd>"),
    ],
)
def test_a_result_is_a_string_or_json_or_its_repr_on_one_line(value: Any, line: str) -> None:
    assert as_line(value, one_line=True) == line


def test_json_may_be_ascii() -> None:
    assert as_line(["ü"], one_line=True, ascii_only=True) == '["\\u00fc"]'
    assert as_line("ü", one_line=True, ascii_only=True) == "ü"


def test_the_result_of_one_run_may_have_several_lines() -> None:
    assert as_line("two\nlines", one_line=False) == "two\nlines"
    assert as_line(Opaque(), one_line=False) == "<opaque\nthing>"


def test_what_contains_itself_is_shown_by_its_repr() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert as_line(endless, one_line=True) == "[[...]]"
    assert json.loads(as_line([], one_line=True)) == []


def test_nouns_have_a_plural() -> None:
    assert [plural(1, "run"), plural(0, "step"), plural(2000, "process")] == ["1 run", "0 steps", "2,000 processes"]


def test_nouns_have_an_article() -> None:
    assert [a("int"), a("float"), a("Array")] == ["an int", "a float", "an Array"]


def test_the_beginning_of_a_text_has_so_many_characters_and_lines() -> None:
    assert beginning("short\ntext", 10, 2) == "short\ntext"
    assert beginning("short\ntext", 9, 2) == "short\ntex…"
    assert beginning("a\nb\nc", 100, 2) == "a\nb…"
