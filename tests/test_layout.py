"""Imports point one way, the scheduler is pure, and the package says so."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import TypeGuard

import pytest

import fuseline

PACKAGE = Path(fuseline.__file__).parent

#: Each line may import from itself and the lines above it.
LAYERS = [
    {"errors", "states", "graph", "faults", "presence", "text", "logs", "lazy"},
    {"values", "value_files"},
    {"workplace"},
    {"messages", "records", "schema", "context", "wakeup", "channel", "encoding"},
    {"spool"},
    {"binding", "policies"},
    {"step"},
    {"attempt", "observers"},
    {"workflow"},
    {"scheduler"},
    {"broker"},
    {"processes"},
    {"worker"},
    {"executors"},
    {"lane", "signals", "progress", "engines"},
    {"testing", "cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_module(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and str(node.value).startswith("fuseline.")


def imports(path: Path, *, at_the_top_only: bool) -> set[str]:
    """Return the dotted names that a module imports, but for those it needs for types alone."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = list(tree.body) if at_the_top_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    lazy = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_names"]
    found |= {each.value for node in lazy for each in ast.walk(node) if is_module(each)}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_layer_and_those_before(path: Path) -> None:
    own = LEVEL[room(path)]
    for name in imports(path, at_the_top_only=True):
        if name.startswith("fuseline."):
            other = name.split(".")[1]
            assert LEVEL[other] <= own, f"{path.relative_to(PACKAGE)} imports {name}"


def test_every_module_has_a_layer() -> None:
    assert {room(path) for path in modules()} == set(LEVEL)


@pytest.mark.parametrize("path", sorted((PACKAGE / "scheduler").glob("*.py")), ids=lambda path: path.name)
def test_the_scheduler_is_pure(path: Path) -> None:
    impure = {"time", "threading", "multiprocessing", "random", "sqlite3", "loky", "os", "selectors"}
    assert not {name.split(".")[0] for name in imports(path, at_the_top_only=False)} & impure


def test_processes_know_nothing_of_steps() -> None:
    for path in (PACKAGE / "processes").glob("*.py"):
        names = {name for name in imports(path, at_the_top_only=False) if name.startswith("fuseline")}
        names.discard("fuseline.channel")
        assert all(name.startswith("fuseline.processes") for name in names), path.name


@pytest.mark.parametrize(
    "statement", ["import fuseline", "from fuseline import Step, Workflow", "from fuseline.testing import Gate"]
)
def test_import_is_light(statement: str) -> None:
    """It loads none of what only some programs need; a child, too, imports what its steps are defined with."""
    heavy = ["asyncio", "multiprocessing", "loky", "psutil", "cloudpickle", "concurrent.futures"]
    code = f"import sys; {statement}; print([name for name in {heavy!r} if name in sys.modules])"
    # What measures the coverage of a process imports more in it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert out == "[]\n"


def test_public_names_are_there() -> None:
    for name in fuseline.__all__:
        assert getattr(fuseline, name) is not None
    assert set(fuseline.__all__) <= set(dir(fuseline))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fuseline.nonsense
