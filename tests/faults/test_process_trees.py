"""What a step starts ends with it: after a timeout, a cancel, a crash, and when the engine is closed.

What double-forks into a session of its own while its parents are gone has left the group and the tree: nobody can know
that it belongs to the step. Documented, and not asked for here.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from fuseline import RunFailed, StepCrashed, StepTimedOut, Workflow
from fuseline.errors import RunCancelled
from fuseline.executors import LokyExecutor
from fuseline.policies import StepTimeoutPolicy
from fuseline.processes.child import Child
from fuseline.testing import Gate
from fuseline.testing.contract import Bench, is_running
from fuseline.testing.gate import HANG

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from arena import BROKERS, brokers, end_of, working
from families import LeaveOne, StartMany, StartOneAtTheEnd


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


def test_what_a_step_has_left_is_gone_when_its_child_is_replaced() -> None:
    pid = Workflow(outputs=[LeaveOne()]).run(processes=1)
    assert not is_running(pid)


def test_a_child_stays_until_it_is_known_what_a_step_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    list_started = Child.list_started

    def list_late(child: Child[Any]) -> None:
        poll = select.poll()
        poll.register(child.exit_fd, select.POLLIN)
        poll.poll(500)  # the child would have ended by then
        list_started(child)

    monkeypatch.setattr(Child, "list_started", list_late)
    pid = Workflow(outputs=[LeaveOne()]).run(processes=1)
    assert not is_running(pid)


def test_what_a_step_starts_when_it_is_told_to_end_is_gone_too(tmp_path: Path) -> None:
    workflow = Workflow(outputs=[StartOneAtTheEnd(policies=[StepTimeoutPolicy(0.5)])])
    with pytest.raises(RunFailed) as caught:
        workflow.run({"path": str(tmp_path / "pid")}, executor=LokyExecutor(1, grace=2.0))
    assert isinstance(caught.value.__cause__, StepTimedOut)
    assert not is_running(int((tmp_path / "pid").read_text()))
