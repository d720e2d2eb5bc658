"""What a step starts ends with it: after a timeout, a cancel, a crash, and when the engine is closed.

What double-forks into a session of its own while its parents are gone has left the group and the tree: nobody can know
that it belongs to the step. Documented, and not asked for here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from fuseline import Step, StepCrashed, StepTimedOut, Workflow
from fuseline.errors import RunCancelled
from fuseline.executors import LokyExecutor
from fuseline.policies import StepTimeoutPolicy
from fuseline.testing import Gate
from fuseline.testing.contract import Bench, is_running
from fuseline.testing.gate import HANG

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from arena import BROKERS, brokers, end_of, working

SLEEP = [sys.executable, "-c", "import time; time.sleep(3600)"]
#: Starts itself with one level less, says its pid, and stays.
NEST = (
    "import os, subprocess, sys, time\n"
    "depth, path = int(sys.argv[1]), sys.argv[2]\n"
    "code = sys.argv[3]\n"
    "open(path, 'a').write(f'{os.getpid()}\\n')\n"
    "if depth: subprocess.Popen([sys.executable, '-c', code, str(depth - 1), path, code])\n"
    "else: os.write(os.open(path + '.done', os.O_WRONLY), b'.')\n"
    "time.sleep(3600)\n"
)


def stay() -> NoReturn:
    while True:
        signal.pause()


class StartMany(Step):
    """Starts processes of every kind, enters a gate with their pids, and then hangs or crashes."""

    def run_step(self, gate: Gate, path: str, then: str) -> None:
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=stay, daemon=daemon) for daemon in (True, False)]
        for process in processes:
            process.start()
        popens = [
            subprocess.Popen(SLEEP),
            subprocess.Popen(["nohup", *SLEEP], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
            subprocess.Popen(SLEEP, start_new_session=True),
        ]
        os.mkfifo(path + ".done")
        nested = subprocess.Popen([sys.executable, "-c", NEST, "3", path, NEST])
        with open(path + ".done", "rb", buffering=0) as done:  # until the innermost of the four is there
            done.read(1)
        deep = Path(path).read_text().split()
        assert str(nested.pid) in deep
        pids = [os.getpid(), *(process.pid for process in processes), *(process.pid for process in popens), *deep]
        gate.enter(" ".join(map(str, pids)))
        if then == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        stay()


def processes_of(gate: Gate) -> list[int]:
    pids = [int(pid) for pid in gate.wait_entered().split()]
    assert len(pids) == 10
    assert all(map(is_running, pids))
    return pids


def still_there(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_running(pid)]


@pytest.mark.parametrize("kind", BROKERS)
def test_all_are_gone_after_a_timeout(kind: str, gate: Gate, tmp_path: Path) -> None:
    workflow = Workflow(outputs=[StartMany(policies=[StepTimeoutPolicy(5.0)])])
    inputs = {"gate": gate, "path": str(tmp_path / "pids"), "then": "hang"}
    with brokers(kind) as broker, working(broker, [workflow], processes=1):
        run = broker.dispatch_workflow(workflow.to_schema(), inputs)
        pids = processes_of(gate)
        assert isinstance(end_of(broker, run), StepTimedOut)  # in the gate
        assert still_there(pids) == []


@pytest.mark.parametrize("kind", BROKERS)
def test_all_are_gone_after_a_cancel(kind: str, gate: Gate, tmp_path: Path) -> None:
    workflow = Workflow(outputs=[StartMany()])
    inputs = {"gate": gate, "path": str(tmp_path / "pids"), "then": "hang"}
    with brokers(kind) as broker, working(broker, [workflow], processes=1):
        run = broker.dispatch_workflow(workflow.to_schema(), inputs)
        pids = processes_of(gate)
        assert broker.cancel(run)
        with pytest.raises(RunCancelled):
            broker.result(run, HANG)
        assert still_there(pids) == []


@pytest.mark.parametrize("kind", BROKERS)
def test_all_of_the_group_are_gone_after_a_crash(kind: str, gate: Gate, tmp_path: Path) -> None:
    workflow = Workflow(outputs=[StartMany()])
    inputs = {"gate": gate, "path": str(tmp_path / "pids"), "then": "crash"}
    with brokers(kind) as broker, working(broker, [workflow], processes=1):
        run = broker.dispatch_workflow(workflow.to_schema(), inputs)
        pids = processes_of(gate)
        own_session = pids[5]  # left the group, and its parent dies unseen
        gate.open()
        assert isinstance(end_of(broker, run), StepCrashed)
        left = still_there(pids)
        if own_session in left:
            os.kill(own_session, signal.SIGKILL)
        assert [pid for pid in left if pid != own_session] == []


def test_all_are_gone_when_the_executor_is_closed(gate: Gate, tmp_path: Path) -> None:
    step = StartMany()
    with Bench(LokyExecutor(1), step) as bench:
        bench.submit(step, gate=gate, path=str(tmp_path / "pids"), then="hang")
        pids = processes_of(gate)
    assert still_there(pids) == []
