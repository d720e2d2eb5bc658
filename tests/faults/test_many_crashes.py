"""Crashes by the dozen, of idle children, and in the middle of a transfer: what was not hit goes on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fuseline import MemoryBroker, ProcessEngine, RunFailed, State, StepCrashed, Workflow
from fuseline.errors import StepLost
from fuseline.executors import LokyExecutor, slot
from fuseline.messages import Outcome
from fuseline.policies import RetryPolicy
from fuseline.testing import Gate
from fuseline.testing.contract import Bench, error_of, result_of
from fuseline.testing.steps import Die, Echo, Hold, WhereAmI

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from arena import BROKERS, brokers, end_of
from crashers import LARGE, DieTogether, GiveMuch, TakeMuch


@pytest.mark.parametrize("count", [1, 2, 5, 13])
def test_so_many_that_die_at_once_fail_alone(count: int) -> None:
    crash, hold = DieTogether(), Hold()
    gates = [Gate() for _ in range(count + 1)]
    with Bench(LokyExecutor(count + 1), crash, hold, where := WhereAmI()) as bench:
        held = bench.submit(hold, gate=gates[0])
        crashers = [bench.submit(crash, gate=gate) for gate in gates[1:]]
        for gate in gates:
            gate.wait_entered()
        for gate in gates[1:]:
            gate.open()
        reports = bench.collect(count)
        assert {str(error_of(reports[token]).signal_name) for token in crashers} == {"SIGKILL"}  # type: ignore[attr-defined]
        gates[0].open()
        assert result_of(bench.collect(1)[held]) == "let go"
        again = [bench.submit(hold, gate=gate) for gate in gates]  # as many at a time as before
        pids = {gate.wait_entered() for gate in gates}
        assert len(pids) == count + 1
        for gate in gates:
            gate.open()
        assert {result_of(report) for report in bench.collect(len(again)).values()} == {"let go"}
        result_of(bench.run(where))
    for gate in gates:
        gate.close()


@pytest.mark.parametrize("kind", BROKERS)
def test_a_step_that_always_crashes_ends_after_its_retries_and_all_else_finishes(kind: str) -> None:
    die, echo = Workflow(outputs=[Die(policies=[RetryPolicy(3)])]), Workflow(outputs=[Echo()])
    with brokers(kind) as broker:
        bad = broker.dispatch_workflow(die.to_schema(), {"how": "SIGSEGV"})
        good = broker.dispatch_many(echo.to_schema(), [{"value": i} for i in range(10)])
        ProcessEngine(broker, [die, echo], processes=2).work()
        assert isinstance(end_of(broker, bad), StepCrashed)
        assert broker.get_run(bad).steps["Die"].attempts == 4
        assert [end_of(broker, run) for run in good] == list(range(10))


def test_nothing_fails_when_an_idle_child_is_killed() -> None:
    workflow = Workflow(outputs=[WhereAmI()])
    broker = MemoryBroker()

    def work() -> int:
        run = broker.dispatch_workflow(workflow.to_schema())
        engine.work()
        pid, _ = broker.result(run)
        assert broker.get_run(run).steps["WhereAmI"].attempts == 1
        return int(pid)

    with ProcessEngine(broker, [workflow], processes=1) as engine:
        first = work()
        os.kill(first, signal.SIGKILL)
        wait_for_end_of_child(first)
        assert work() != first


def wait_for_end_of_child(pid: int) -> None:
    """Wait until a child has ended, without reaping it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_child_killed_before_it_has_read_a_large_argument_costs_nothing() -> None:
    """It is stopped, so the pipe is full and the rest waits here; then it is killed."""
    take, where = TakeMuch(), WhereAmI()
    with Bench(LokyExecutor(1), take, where) as bench:
        pid, _ = result_of(bench.run(where))
        os.kill(pid, signal.SIGSTOP)
        token = bench.submit(take, data=b"x" * LARGE)
        [child] = [each.child for each in bench.executor._slots]  # type: ignore[attr-defined]
        assert child is not None
        assert not child.channel.flush()  # it is in the middle
        os.kill(pid, signal.SIGKILL)
        report = bench.collect(1)[token]
        assert result_of(report) == LARGE  # not begun, so it went to another child


def test_a_child_killed_in_the_middle_of_a_large_result_fails_that_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    give, hold, where = GiveMuch(), Hold(), WhereAmI()
    partial = threading.Event()
    with Gate() as gate, Bench(LokyExecutor(2), give, hold, where) as bench:
        held = bench.submit(hold, gate=gate)
        gate.wait_entered()
        pid, _ = result_of(bench.run(where))
        token = bench.submit(give)
        read = slot.Slot._read

        def read_a_part(self: slot.Slot) -> None:
            if self.child is not None and self.child.pid == pid and not partial.is_set():
                assert os.read(self.child.fileno(), 1000)  # so it is being written
                partial.set()
                os.kill(pid, signal.SIGKILL)
                wait_for_end_of_child(pid)
                monkeypatch.setattr(slot.Slot, "_read", read)

        monkeypatch.setattr(slot.Slot, "_read", read_a_part)
        report = bench.collect(1)[token]
        assert partial.is_set()
        assert report.outcome is Outcome.LOST
        assert isinstance(error_of(report), StepCrashed)
        gate.open()
        assert result_of(bench.collect(1)[held]) == "let go"
        assert len(result_of(bench.run(give))) == LARGE


@pytest.mark.parametrize("kind", BROKERS)
def test_a_run_whose_children_cannot_start_fails_with_the_reason(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    workflow = Workflow(outputs=[Echo()])
    starts: list[Any] = []
    start = slot.Slot.start
    monkeypatch.setattr(slot.Slot, "start", lambda self: (starts.append(self), start(self))[1])
    with brokers(kind) as broker:
        run = broker.dispatch_workflow(workflow.to_schema())
        monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter starts with it
        ProcessEngine(broker, [workflow], processes=2).work()
        with pytest.raises(RunFailed, match="no child process starts here") as failure:
            broker.result(run)
        assert isinstance(failure.value.__cause__, StepLost)
        assert len(starts) <= 10  # no storm of restarts
        monkeypatch.delenv("PYTHONHOME")
        again = broker.dispatch_workflow(workflow.to_schema(), {"value": 1})
        ProcessEngine(broker, [workflow], processes=2).work()
        assert end_of(broker, again) == 1
        assert broker.get_run(again).state is State.SUCCEEDED
