"""WorkflowPolicy: each hook exactly once per event, in the process that works."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from fuseline import MemoryBroker, ProcessEngine, State, Step, Workflow, current_run
from fuseline.policies import RetryPolicy, WorkflowPolicy
from fuseline.testing import Gate
from fuseline.testing.gate import HANG
from fuseline.testing.steps import Echo, Hold


class Gather(WorkflowPolicy):
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()

    def add(self, *event: Any) -> None:
        run = current_run()
        assert run is not None
        self.threads.add(threading.get_ident())
        self.events.append((*event, run.attempt))

    def on_workflow_start(self, workflow: Workflow) -> None:
        self.add("start", workflow.name)

    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        self.add("finished", str(state))

    def on_step_start(self, step: Step) -> None:
        self.add("step start", step.name)

    def on_step_success(self, step: Step, result: Any) -> None:
        self.add("success", step.name, result)

    def on_step_failure(self, step: Step, exc: BaseException) -> None:
        self.add("failure", step.name, repr(exc))

    def on_step_retry(self, step: Step, exc: BaseException, delay: float) -> None:
        self.add("retry", step.name, delay)


class FailsOnce(Step):
    def run_step(self, value: int) -> int:
        run = current_run()
        assert run is not None
        if run.attempt == 1:
            raise ValueError(value)
        return value


@pytest.mark.parametrize("executor", ["inline", "threads", "loky"])
def test_each_hook_is_called_once_per_event(executor: str) -> None:
    gather = Gather()
    flaky, echo = FailsOnce(policies=[RetryPolicy(1, wait=0.01)]), Echo()
    flaky >> echo
    Workflow(outputs=[echo], policies=[gather], name="w").run({"value": 7}, executor=executor)
    assert gather.events == [
        ("start", "w", None),
        ("step start", "FailsOnce", 1),
        ("failure", "FailsOnce", "ValueError(7)", 1),
        ("retry", "FailsOnce", 0.01, 1),
        ("step start", "FailsOnce", 2),
        ("success", "FailsOnce", 7, 2),
        ("step start", "Echo", 1),
        ("success", "Echo", 7, 1),
        ("finished", "SUCCEEDED", None),
    ]
    assert gather.threads == {threading.get_ident()}


def test_a_final_failure_is_told_without_a_retry() -> None:
    gather = Gather()
    with pytest.raises(Exception, match="FailsOnce"):
        Workflow(outputs=[FailsOnce()], policies=[gather], name="w").run({"value": 7}, executor="inline")
    assert [event[0] for event in gather.events] == ["start", "step start", "failure", "finished"]
    assert gather.events[-1][1] == "FAILED"


def test_with_several_engines_every_event_is_told_once() -> None:
    gather = Gather()
    workflow = Workflow(outputs=[FailsOnce(policies=[RetryPolicy(1)])], policies=[gather], name="w")
    broker = MemoryBroker()
    runs = broker.dispatch_many(workflow.to_schema(), [{"value": i} for i in range(30)])
    threads = [
        threading.Thread(target=ProcessEngine(broker, [workflow], processes=1, executor="threads").work)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert [broker.result(run) for run in runs] == list(range(30))
    count = {kind: sum(event[0] == kind for event in gather.events) for kind in {e[0] for e in gather.events}}
    assert count == {"start": 30, "step start": 60, "failure": 30, "retry": 30, "success": 30, "finished": 30}


def test_an_error_in_an_observer_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(WorkflowPolicy):
        def on_step_start(self, step: Step) -> None:
            raise RuntimeError("oops")

    gather = Gather()
    with caplog.at_level(logging.ERROR, "fuseline"):
        workflow = Workflow(outputs=[Echo()], policies=[Clumsy(), gather])
        assert workflow.run({"value": 1}, executor="inline") == 1
    assert "Clumsy.on_step_start failed" in caplog.text
    assert len(gather.events) == 4


def test_the_end_of_a_cancelled_run_is_told(gate: Gate) -> None:
    gather = Gather()
    workflow = Workflow(outputs=[Hold()], policies=[gather])
    broker = MemoryBroker()
    run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
    thread = threading.Thread(target=ProcessEngine(broker, [workflow], processes=1).work)
    thread.start()
    gate.wait_entered()
    broker.cancel(run)
    thread.join(HANG)
    assert [event[0] for event in gather.events] == ["start", "step start", "finished"]
    assert gather.events[-1][1] == "CANCELLED"


def test_the_end_of_a_run_that_is_cancelled_while_a_retry_waits_is_told() -> None:
    gather = Gather()
    broker = MemoryBroker()
    retried = threading.Event()

    class CancelWhenItWaits(WorkflowPolicy):
        def on_step_retry(self, step: Step, exc: BaseException, delay: float) -> None:
            retried.set()

    step = FailsOnce(policies=[RetryPolicy(1, wait=3000)])
    workflow = Workflow(outputs=[step], policies=[gather, CancelWhenItWaits()])
    run = broker.dispatch_workflow(workflow.to_schema(), {"value": 1})
    thread = threading.Thread(target=ProcessEngine(broker, [workflow], processes=1, executor="threads").work)
    thread.start()
    assert retried.wait(HANG)
    broker.cancel(run)
    thread.join(HANG)
    assert gather.events[-1][:2] == ("finished", "CANCELLED")


def test_progress_is_one_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    workflow = Workflow(outputs=[FailsOnce(policies=[RetryPolicy(1)])], name="w")
    assert workflow.run({"value": 1}, executor="inline", progress=True) == 1
    assert capsys.readouterr().err == "w: 1/1 step, 1 retried, succeeded\n"
