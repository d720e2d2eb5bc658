"""How much memory a child and what it has started use, and whom the kernel ends first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuseline.processes import memory
from fuseline.processes.memory import MemoryWatch, tree_memory
from fuseline.processes.victim import be_the_first_victim

MB = 2**20
#: Uses so many megabytes, says so, and ends at the end of its input.
USE = "import sys; data = bytearray({0} * 2**20); print('ready', flush=True); sys.stdin.read()"
#: Starts such a process, in another session if it is told to, and waits for it.
START = (
    "import subprocess, sys; "
    "subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=sys.argv[2] == 'session')"
)


def started(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("where", ["itself", "group", "session"])
def test_what_a_process_and_its_descendants_use_counts(where: str) -> None:
    arguments = [USE.format(60)] if where == "itself" else [START, USE.format(60), where]
    with started(*arguments) as process:
        used = tree_memory(process.pid)
        process.communicate()
    assert 60 * MB < used < 200 * MB
    assert tree_memory(process.pid) == 0


def test_what_has_lost_its_parent_counts_by_its_group() -> None:
    orphan = (
        f"import os, signal\nif os.fork(): os._exit(0)\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{USE.format(60)}"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {orphan!r}]); sys.stdin.read()"
    with started(code) as process:
        used = tree_memory(process.pid)
        process.communicate()
    assert used > 60 * MB


def test_looks_are_as_far_apart_as_they_are_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    now, spent = [100.0], iter([0.0, 0.001, 1.0, 1.02, 2.0, 2.02])
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(memory.time, "thread_time", lambda: next(spent))
    monkeypatch.setattr(memory, "tree_memory", lambda leader: 7)
    others: set[MemoryWatch] = set()
    first = MemoryWatch(1, 10, others, 100.0)
    assert first.due == pytest.approx(100.1)
    assert first.look() == 7  # 1 ms
    assert first.due == pytest.approx(100.1)
    first.look()  # 20 ms
    assert first.due == pytest.approx(100.4)
    second = MemoryWatch(2, 10, others, 100.0)
    first.look()
    assert first.due == pytest.approx(100.8)
    second.end()
    first.end()
    assert others == set()


@pytest.mark.parametrize(("before", "after"), [("0\n", "500"), ("300\n", "800"), ("900\n", "1000"), ("1000\n", "1000")])
def test_a_process_may_offer_itself_to_the_kernel(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "oom_score_adj"
    path.write_text(before)
    be_the_first_victim(str(path))
    assert path.read_text().strip() == after


def test_where_there_is_no_score_nothing_happens(tmp_path: Path) -> None:
    be_the_first_victim(str(tmp_path / "nothing"))
    assert os.listdir(tmp_path) == []
