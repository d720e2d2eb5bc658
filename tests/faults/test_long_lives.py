"""A parent that lives long: its children have their thread caps in time, and kills leave nothing in it."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import psutil
import pytest

from fuseline import Step, Workflow
from fuseline.executors import LokyExecutor
from fuseline.executors.base import usable_cpus
from fuseline.testing.contract import Bench
from fuseline.testing.steps import Die

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

CAPS = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"]
#: Each takes the start of a process; FUSELINE_KILLS=500 asks for more of them.
KILLS = int(os.environ.get("FUSELINE_KILLS", "60"))


class SeeCaps(Step):
    """Says whether numpy was there before, what the caps are then, and what numpy makes of them."""

    def run_step(self) -> tuple[bool, list[str | None], int]:
        was_there = "numpy" in sys.modules
        caps = [os.environ.get(name) for name in CAPS]
        import numpy as np

        np.ones((200, 200)) @ np.ones((200, 200))  # BLAS starts its threads at the latest now
        return was_there, caps, len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("processes", [1, 1000])
def test_thread_caps_are_there_before_numpy_is(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CAPS:
        monkeypatch.delenv(name, raising=False)
    was_there, caps, threads = Workflow(outputs=[SeeCaps()]).run(processes=processes)
    share = max(1, usable_cpus() // processes)
    assert not was_there
    assert caps == [str(share)] * len(CAPS)
    assert threads <= share


def test_a_cap_that_the_program_sets_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CAPS:
        monkeypatch.setenv(name, "3")
    _, caps, _ = Workflow(outputs=[SeeCaps()]).run(processes=1)
    assert caps == ["3"] * len(CAPS)


def held() -> tuple[int, int, int]:
    """Return descriptors, threads and objects of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(gc.get_objects())


def test_kills_leave_the_parent_as_it_was() -> None:
    die = Die()
    with Bench(LokyExecutor(4), die) as bench:

        def kill(count: int) -> None:
            bench.run_all(die, [{"how": "SIGKILL"}] * count)

        kill(10)  # what is imported and cached at first
        before, memory = held(), psutil.Process().memory_info().rss
        kill(KILLS)
        after, more = held(), psutil.Process().memory_info().rss - memory
    descriptors, threads, objects = (now - then for now, then in zip(after, before, strict=True))
    assert abs(descriptors) < KILLS / 2  # up to four children are being started, and each has a few
    assert threads == 0
    assert objects < 20 * KILLS
    assert more < 8_000_000
