"""Fixtures of the tests of the command: a project to work on, a store, and ways to call the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fuseline.broker.local import LocalBroker
from fuseline.cli import main

PIPELINE = """
from pathlib import Path

from fuseline import Step, Workflow
from fuseline.policies import RetryPolicy
from fuseline.testing import Gate


class Load(Step):
    def run_step(self, path: Path, count: int = 3) -> list[str]:
        return [f"{path.name} {number}" for number in range(count)]


class Report(Step):
    def run_step(self, rows: list[str], title: str = "report") -> str:
        if title == "bad":
            raise ValueError("a bad title [bold]")
        return f"{title}: {len(rows)} rows"


class Double(Step):
    def run_step(self, x):
        return {"x": x, "twice": 2 * x}


class Hold(Step):
    def run_step(self, folder: str) -> str:
        Gate.at(folder).enter()
        return "held"


load, report = Load(), Report()
load >> report
etl = Workflow(outputs=[report], name="etl")


def double() -> Workflow:
    return Workflow(outputs=[Double()], name="double", executor="inline")


def hold() -> Workflow:
    return Workflow(outputs=[Hold()], name="hold")
"""


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with ``pipeline.py``, which is the current one; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pipeline.py").write_text(PIPELINE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("FUSELINE_STORE", str(tmp_path / "runs.db"))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def broker(store: Path) -> Iterator[LocalBroker]:
    """A broker that stays during the test, so that not every command has to start one."""
    with LocalBroker(store) as broker:
        yield broker


@pytest.fixture
def call(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Calls the command in this process."""

    def call(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(arguments)
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command as a process of its own."""
    started: list[subprocess.Popen[str]] = []
    code = "import sys; from fuseline.cli import main; sys.exit(main(sys.argv[1:]))"

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
