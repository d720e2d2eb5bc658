"""How a child begins: with little, in the program's surroundings, and fit for what steps use."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import fuseline
from fuseline import Step, Workflow
from fuseline.processes.on_import import on_import

BESIDE = """
    import sys
    sys.path[:0] = {paths!r}  # where neither this program nor a child would look
    from fuseline import Workflow
    from looks import Look
    print(Workflow(outputs=[Look()], name="look", version="1").run())
"""

LOOKS = """
    import json, os, sys
    from fuseline import Step

    class Look(Step):
        def run_step(self):
            return json.dumps([sys.modules["fuseline"].__file__, sorted(sys.modules)])
"""


def test_a_child_finds_what_only_sys_path_of_its_program_has(tmp_path: Path) -> None:
    package = Path(fuseline.__file__).parent
    shutil.copytree(package, tmp_path / "vendored" / "fuseline", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "looks.py").write_text(dedent(LOOKS))
    program = tmp_path / "elsewhere" / "program.py"
    program.parent.mkdir()
    program.write_text(dedent(BESIDE.format(paths=[str(tmp_path / "vendored"), str(tmp_path)])))
    # What measures the coverage of a process imports more in it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found, modules = json.loads(finished.stdout)
    assert Path(found).parent == tmp_path / "vendored" / "fuseline"
    assert not {"loky", "multiprocessing", "concurrent.futures", "cloudpickle"} & set(modules), (
        "a child would start slower"
    )


class UsesMultiprocessing(Step):
    def run_step(self) -> tuple[str, int, list[int]]:
        parent = multiprocessing.parent_process()
        assert parent is not None
        assert parent.pid is not None
        with multiprocessing.get_context("fork").Pool(2) as pool:
            squares = pool.map(pow_2, [1, 2, 3])
        return multiprocessing.current_process().name, parent.pid, squares


def pow_2(number: int) -> int:
    return number**2


def test_a_step_may_use_multiprocessing() -> None:
    name, parent, squares = Workflow(outputs=[UsesMultiprocessing()], name="nested", version="1").run()
    assert (name, parent, squares) == ("fuseline-child", os.getpid(), [1, 4, 9])


class Trackers(Step):
    def run_step(self) -> list[bool]:
        from multiprocessing import resource_tracker

        from loky.backend import resource_tracker as of_loky

        return [
            tracker._resource_tracker._fd is not None and tracker._resource_tracker._pid is None
            for tracker in (resource_tracker, of_loky)
        ]


def test_what_a_step_shares_is_tracked_by_its_program_which_outlives_the_child() -> None:
    assert Workflow(outputs=[Trackers()], name="trackers", version="1").run() == [True, True]


def test_on_import_waits_for_the_module_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_one.py").write_text("value = 1")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    seen = []
    on_import("late_one", lambda module: seen.append(module.value))
    assert seen == []
    module = importlib.import_module("late_one")
    assert seen == [1]
    assert sys.meta_path == before
    assert type(module.__spec__.loader).__name__ == type(module.__loader__).__name__ == "SourceFileLoader"
    on_import("late_one", lambda module: seen.append(module.value + 1))
    assert seen == [1, 2]
    del sys.modules["late_one"]
