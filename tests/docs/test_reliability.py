"""The page on reliability names a test for each of its lines, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^\| (?P<line>\d+) \| (?P<promise>[^|]+) \| (?P<tests>[^|]+) \|$", re.M)


def rows() -> dict[int, str]:
    """Return ``{line: what its column of tests says}``."""
    found = [(int(row["line"]), row["tests"].strip()) for row in ROW.finditer(PAGE.read_text())]
    assert len(dict(found)) == len(found), "a line appears twice"
    return dict(found)


def names_in(path: Path) -> set[str]:
    """Return the names of all test functions in a file, those of classes as ``Class::test``."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return {name for name in names if name.split("::")[-1].startswith("test_")}


def test_every_line_is_there() -> None:
    assert sorted(rows()) == list(range(1, 21))


def test_every_test_that_is_named_exists() -> None:
    for line, tests in rows().items():
        named = re.findall(r"`([^`]+)`", tests)
        assert named, f"line {line} names no test"
        assert re.sub(r"`[^`]+`|<br>", "", tests).strip() == "", f"line {line} says more than tests"
        for name in named:
            path, _, function = name.partition("::")
            assert (ROOT / path).is_file(), f"line {line}: there is no {path}"
            assert function in names_in(ROOT / path), f"line {line}: {path} has no {function}"
