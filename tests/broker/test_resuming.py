"""A run that failed or was cancelled goes on: what succeeded is kept."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from fuseline import ProcessEngine, RunFailed, Step, Workflow
from fuseline.broker import LocalBroker
from fuseline.errors import (
    BrokerError,
    RunCancelled,
    UnboundParameterError,
    UnknownRunError,
    UnknownStepError,
    WorkflowChangedError,
)
from fuseline.messages import StepReport
from fuseline.policies import RetryPolicy
from fuseline.states import State
from fuseline.testing import Gate
from fuseline.testing.gate import HANG

from .conftest import wait_gone
from .workflows import Add, Double, FailUnless, Hold, Log, adding, starts

pytestmark = pytest.mark.usefixtures("checked")


def work(broker: LocalBroker, *workflows: Workflow) -> None:
    ProcessEngine(broker, workflows, processes=2, executor="inline").work()


class Sum(Step):
    def run_step(self, *values: int) -> int:
        return sum(values)


def flaky(policies: list[RetryPolicy] | None = None) -> Workflow:
    """Log -> FailUnless -> Double."""
    log, fail, double = Log(), FailUnless(policies=policies or []), Double()
    log.next(fail)
    fail.next(double)
    return Workflow(outputs=[double], name="flaky")


def test_a_failed_run_goes_on_where_it_failed(stored: LocalBroker, tmp_path: Path) -> None:
    workflow = flaky([RetryPolicy(1)])
    inputs = {"log": str(tmp_path / "log"), "number": 4, "path": str(tmp_path / "there")}
    run = stored.dispatch_workflow(workflow.to_schema(), inputs)
    work(stored, workflow)
    with pytest.raises(RunFailed):
        stored.result(run)
    (tmp_path / "there").touch()
    assert stored.resume(run, workflow.to_schema())
    assert stored.get_run(run).state is State.RUNNING
    assert not stored.resume(run)  # it is on its way
    work(stored, workflow)
    assert stored.result(run) == 8
    assert not stored.resume(run)  # nothing is left to do
    info = stored.get_run(run)
    assert {name: step.attempts for name, step in info.steps.items()} == {"Log": 1, "FailUnless": 3, "Double": 1}
    assert starts(tmp_path / "log") == ["4"]
    told = [(move.step_name, move.state.value, move.cause) for move in stored.story(run)]
    assert (None, "RUNNING", "it was resumed") in told
    assert ("FailUnless", "READY", "the run was resumed") in told


def test_a_run_can_be_resumed_again_and_by_another_broker(store: Path, tmp_path: Path) -> None:
    workflow = flaky()
    inputs = {"log": str(tmp_path / "log"), "number": 4, "path": str(tmp_path / "there")}
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), inputs)
        work(broker, workflow)
    for _ in range(2):
        with LocalBroker(store) as broker:
            assert broker.resume(run)
        wait_gone(broker.pid)
        with LocalBroker(store) as broker:
            work(broker, workflow)
            assert broker.get_run(run).state is State.FAILED
    (tmp_path / "there").touch()
    with LocalBroker(store) as broker:
        assert broker.resume(run)
        work(broker, workflow)
        assert broker.result(run) == 8
        assert broker.get_run(run).steps["FailUnless"].attempts == 4
    assert starts(tmp_path / "log") == ["4"]


def test_a_cancelled_run_can_be_resumed(stored: LocalBroker) -> None:
    workflow = adding()
    run = stored.dispatch_workflow(workflow.to_schema(), {"a": 1})
    stored.cancel(run)
    with pytest.raises(RunCancelled):
        stored.result(run)
    told = [(move.step_name, move.state.value, move.cause) for move in stored.story(run)]
    assert told == [
        ("Add", "READY", ""),
        ("Add", "CANCELLED", "the run was cancelled"),
        ("Double", "CANCELLED", "the run was cancelled"),
        (None, "CANCELLED", ""),
    ]
    assert stored.resume(run)
    work(stored, workflow)
    assert stored.result(run) == 22


def test_a_changed_workflow_is_refused_unless_asked_for(stored: LocalBroker, tmp_path: Path) -> None:
    old = flaky()
    inputs = {"log": str(tmp_path / "log"), "number": 4, "path": str(tmp_path / "there")}
    run = stored.dispatch_workflow(old.to_schema(), inputs)
    work(stored, old)
    log, add = Log(), Add(name="FailUnless")  # another step takes its place, and nothing comes after it
    log.next(add)
    new = Workflow(outputs=[add], name="flaky")
    with pytest.raises(WorkflowChangedError, match="changed=True"):
        stored.resume(run, new.to_schema())
    with pytest.raises(UnboundParameterError, match="'x'"):
        stored.resume(run, Workflow(outputs=[Double()], name="flaky").to_schema(), changed=True)
    assert stored.get_run(run).state is State.FAILED
    inputs_fit = Workflow(outputs=[add, fail_unless_of(log)], name="flaky")
    assert stored.resume(run, inputs_fit.to_schema(), changed=True)
    (tmp_path / "there").touch()
    work(stored, inputs_fit)
    assert stored.result(run) == [14, 4]
    info = stored.get_run(run)
    assert list(info.steps) == ["Log", "FailUnless", "again"]
    assert starts(tmp_path / "log") == ["4"]  # it had succeeded, and kept its outcome
    assert ("Double", "CANCELLED") in [(move.step_name, move.state.value) for move in stored.story(run)]


def test_a_run_that_waits_goes_on_with_a_changed_workflow_if_asked_to(stored: LocalBroker) -> None:
    old = adding()
    run = stored.dispatch_workflow(old.to_schema(), {"a": 1})
    add = Add()
    new = Workflow(outputs=[add], name="adding")
    with pytest.raises(WorkflowChangedError, match=run):
        stored.dispatch_workflow(new.to_schema(), {"a": 1})
    with pytest.raises(WorkflowChangedError, match="changed=True"):
        stored.resume(run, new.to_schema())
    worker_id = stored.register_worker([old.to_schema()])
    with pytest.raises(WorkflowChangedError, match="1 worker of this broker"):
        stored.resume(run, new.to_schema(), changed=True)
    stored.unregister_worker(worker_id)
    with pytest.raises(UnboundParameterError):
        stored.resume(run, Workflow(outputs=[Double()], name="adding").to_schema(), changed=True)
    assert stored.get_run(run).state is State.PENDING  # what is refused changes nothing
    assert stored.resume(run, new.to_schema(), changed=True)
    work(stored, new)
    assert stored.result(run) == 11


def test_all_runs_that_wait_move_to_a_changed_workflow_at_once(stored: LocalBroker, store: Path) -> None:
    old = adding()
    runs = stored.dispatch_many(old.to_schema(), [{"a": i} for i in range(3)])
    worker_id = stored.register_worker([old.to_schema()])
    step = stored.get_step(worker_id)
    assert step is not None
    done = StepReport(
        workflow_id=step.workflow_id,
        instance_id=step.instance_id,
        step_name="Add",
        state=State.SUCCEEDED,
        result=10,
        token=step.token,
    )
    stored.report_step(worker_id, done)  # so the first run is half done
    double = Double(policies=[RetryPolicy(1)])
    new = Workflow(outputs=[Add() >> double], name="adding")
    with pytest.raises(WorkflowChangedError, match="1 worker of this broker"):
        stored.migrate(new.to_schema())
    stored.unregister_worker(worker_id)
    with pytest.raises(WorkflowChangedError, match=r"migrate\(\)"):
        stored.register_worker([new.to_schema()])
    with pytest.raises(UnboundParameterError):
        stored.migrate(Workflow(outputs=[Double()], name="adding").to_schema())
    assert {stored.get_run(run).state for run in runs[1:]} == {State.PENDING}  # what is refused changes nothing
    with stored.events(runs[0]) as events:
        assert stored.migrate(new.to_schema()) == runs
        assert stored.migrate(new.to_schema()) == []
        os.kill(stored.pid, signal.SIGKILL)  # it is stored
        work(stored, new)
        assert events.next_event(HANG) is not None
    assert [stored.result(run) for run in runs] == [20, 22, 24]
    assert stored.get_run(runs[0]).steps["Add"].attempts == 1
    moves = [(move.step_name, move.state.value, move.cause) for move in stored.story(runs[0])]
    assert (None, "RUNNING", "it was moved to the changed workflow") in moves
    assert not [move for move in moves if move[1] == "CANCELLED"]


def test_a_changed_workflow_in_which_nothing_is_left_to_do_ends_the_run(stored: LocalBroker, tmp_path: Path) -> None:
    old = flaky()
    run = stored.dispatch_workflow(
        old.to_schema(), {"log": str(tmp_path / "log"), "number": 4, "path": str(tmp_path / "there")}
    )
    work(stored, old)
    new = Workflow(outputs=[Log()], name="flaky")
    assert stored.resume(run, new.to_schema(), changed=True)
    assert stored.get_run(run).state is State.SUCCEEDED
    assert stored.result(run) == 4


def fail_unless_of(log: Step) -> Step:
    again = FailUnless(name="again")
    log.next(again)
    return again


def test_a_step_whose_result_is_gone_runs_again(stored: LocalBroker, tmp_path: Path) -> None:
    """Nothing used what it returned, so it was not kept; in the changed workflow, something does."""
    log, fail = Log(), FailUnless()
    log.next(fail)

    class Alone(Step):
        def run_step(self) -> int:
            return 7

    alone = Alone()
    alone.next(fail)
    old = Workflow(outputs=[fail], name="lost")
    inputs = {"log": str(tmp_path / "log"), "number": 4, "path": str(tmp_path / "there")}
    run = stored.dispatch_workflow(old.to_schema(), inputs)
    work(stored, old)
    total = Sum()
    log, fail, alone = Log(), FailUnless(), Alone()
    log.next(fail)
    for step in (alone, fail):
        step.next(total)
    new = Workflow(outputs=[total], name="lost")
    (tmp_path / "there").touch()
    assert stored.resume(run, new.to_schema(), changed=True)
    work(stored, new)
    assert stored.result(run) == 11
    assert stored.get_run(run).steps["Alone"].attempts == 2


def test_resuming_needs_a_store_and_a_run(stored: LocalBroker) -> None:
    with pytest.raises(UnknownRunError):
        stored.resume("nobody")
    with LocalBroker() as broker, pytest.raises(BrokerError, match="Give it a path"):
        broker.resume("nobody")
    wait_gone(broker.pid)


# -- a single step ----------------------------------------------------------------------------------------------------


def diamond() -> tuple[Workflow, Step, Step]:
    """Add -> (left, right) -> Sum."""
    add, left, right, total = Add(), Double(name="left"), Double(name="right"), Sum()
    for side in (left, right):
        add.next(side)
        side.next(total)
    return Workflow(outputs=[total], name="diamond"), left, right


def test_a_step_is_cancelled_with_what_depends_on_it_and_nothing_else(broker: LocalBroker) -> None:
    workflow, _, _ = diamond()
    run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1})
    assert broker.cancel(run, "left")
    assert not broker.cancel(run, "left")
    with pytest.raises(UnknownStepError, match="'left', 'right'"):
        broker.cancel(run, "middle")
    work(broker, workflow)
    info = broker.get_run(run)
    assert info.state is State.CANCELLED
    assert {name: (step.state.value, step.cause) for name, step in info.steps.items()} == {
        "Add": ("SUCCEEDED", ""),
        "left": ("CANCELLED", "it was cancelled"),
        "right": ("SUCCEEDED", ""),
        "Sum": ("CANCELLED", "step 'left' was cancelled"),
    }


def test_a_run_with_a_cancelled_step_can_be_resumed(stored: LocalBroker) -> None:
    workflow, _, _ = diamond()
    run = stored.dispatch_workflow(workflow.to_schema(), {"a": 1})
    stored.cancel(run, "left")
    work(stored, workflow)
    assert stored.resume(run)
    work(stored, workflow)
    assert stored.result(run) == 44
    assert stored.get_run(run).steps["right"].attempts == 1


@pytest.mark.parametrize("what", ["the run", "the step"])
def test_what_runs_is_killed(stored: LocalBroker, gate: Gate, what: str) -> None:
    hold = Hold(policies=[RetryPolicy(3)])
    workflow = Workflow(outputs=[hold], name="hold")
    run = stored.dispatch_workflow(workflow.to_schema(), {"gate": gate})
    engine = ProcessEngine(stored, [workflow], processes=1)
    thread = threading.Thread(target=engine.work)
    thread.start()
    gate.wait_entered()
    assert stored.cancel(run, None if what == "the run" else "Hold")
    thread.join(HANG)
    assert not thread.is_alive()
    info = stored.get_run(run)
    assert (info.state, info.steps["Hold"].state) == (State.CANCELLED, State.CANCELLED)
    assert info.steps["Hold"].attempts == 1


def test_a_step_whose_end_was_asked_for_does_not_start_again_when_its_worker_dies(store: Path, gate: Gate) -> None:
    workflow = Workflow(outputs=[Hold()], name="hold")
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        worker_id = broker.register_worker([workflow.to_schema()])
        assert broker.get_step(worker_id) is not None
        assert broker.cancel(run, "Hold")
        broker.unregister_worker(worker_id)
        assert broker.get_run(run).state is State.CANCELLED
