"""Every rule of SECURITY.md names the tests that hold it, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
#: What a rule must be about; each has a table of its own.
SUBJECTS = {"Sockets", "Files", "Pickles", "Names and input", "Terminals and logs", "Processes"}


def rules() -> dict[str, list[tuple[str, str]]]:
    """Return ``{subject: [(rule, tests)]}``."""
    part = PAGE.partition("\n## Rules\n")[2].partition("\n## ")[0]
    subjects = re.split(r"^### ", part, flags=re.M)[1:]
    return {text.partition("\n")[0]: re.findall(r"^\| (?!rule|---)(.+?) \| (.*?) \|$", text, re.M) for text in subjects}


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


RULES = [rule for found in rules().values() for rule in found]


def test_there_are_rules_for_each_subject() -> None:
    assert {subject for subject, found in rules().items() if found} == SUBJECTS
    assert len(RULES) == len(re.findall(r"^\| (?!rule|---)", PAGE.partition("\n## Rules\n")[2], re.M)), (
        "a row is no rule"
    )


@pytest.mark.parametrize(("rule", "tests"), RULES, ids=[rule[:50] for rule, _ in RULES])
def test_a_rule_names_tests_that_exist(rule: str, tests: str) -> None:
    named = TEST.findall(tests)
    assert named, f"no test holds: {rule}"
    assert TEST.sub("", tests).strip(" ,") == "", f"more than tests is named: {tests}"
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in names_in(path), f"{path} has no {name}"
