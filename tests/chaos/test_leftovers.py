"""What programs leave behind is found, and what has nothing to do with them is not."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from .leftovers import age, find_leftovers, shared_memory
from .steps import FOLDER


def left(folder: Path, pids: set[int] | None = None, memory: set[str] | None = None) -> list[str]:
    found = find_leftovers(folder, pids or set(), shared_memory() if memory is None else memory, patience=0.0)
    return [violation.whom for violation in found]


def test_an_empty_folder_has_no_leftovers(tmp_path: Path) -> None:
    (tmp_path / "tmp" / f"fuseline-{os.getuid()}").mkdir(parents=True)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "tmp/something",
        "runs.db.files/presence/a1",
        "runs.db.files/spools/a1.7-7",
        "runs.db.files/values/.unfinished-a1",
    ],
)
def test_a_file_that_is_left_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text("left")
    assert left(tmp_path) == [name]


def test_a_value_that_a_run_refers_to_is_not_left_over(tmp_path: Path) -> None:
    values = tmp_path / "runs.db.files" / "values"
    values.mkdir(parents=True)
    for name in ("known", "unknown"):
        (values / name).write_text("value")
    with closing(sqlite3.connect(tmp_path / "runs.db")) as db, db:
        db.execute("CREATE TABLE files (name TEXT)")
        db.execute("INSERT INTO files VALUES ('known')")
    assert left(tmp_path) == ["runs.db.files/values/unknown"]


def test_a_process_that_is_left_is_found(tmp_path: Path) -> None:
    environment = {**os.environ, FOLDER: str(tmp_path)}
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert left(tmp_path) == [f"process {process.pid}"]
        process.kill()


def test_shared_memory_is_found_that_bears_the_number_of_a_process_of_ours(tmp_path: Path) -> None:
    before = shared_memory()
    path = Path(f"/dev/shm/chaos-{os.getpid()}-test")
    path.write_text("left")
    try:
        assert left(tmp_path, {os.getpid()}, before) == [str(path)]
        assert left(tmp_path, {os.getpid() * 10}, before) == []
    finally:
        path.unlink()


def test_files_are_as_old_as_if_two_days_had_passed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.files" / "values" / "a1"
    path.parent.mkdir(parents=True)
    path.write_text("value")
    before = path.stat().st_mtime
    age(tmp_path)
    assert before - path.stat().st_mtime > 86400
