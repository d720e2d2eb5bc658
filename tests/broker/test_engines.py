"""Engines and a broker process: hooks, many engines, runs of others."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fuseline import ProcessEngine, RunFailed, State, Step, Workflow
from fuseline.broker import Broker, LocalBroker, MemoryBroker
from fuseline.broker.base import Traded
from fuseline.executors.base import never_started
from fuseline.executors.inline import InlineExecutor
from fuseline.messages import AttemptReport, StepAssignment, StepReport
from fuseline.policies import RetryPolicy, WorkflowPolicy
from fuseline.testing import Gate
from fuseline.testing.gate import HANG

from .conftest import wait_gone
from .workflows import Fail, Hold, Log, adding, starts


class Count(WorkflowPolicy):
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def on_workflow_start(self, workflow: Workflow) -> None:
        self.calls["workflow_start"] += 1

    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        self.calls[f"workflow_{state.lower()}"] += 1

    def on_step_start(self, step: Step) -> None:
        self.calls["step_start"] += 1

    def on_step_success(self, step: Step, result: Any) -> None:
        self.calls["step_success"] += 1

    def on_step_failure(self, step: Step, exc: BaseException) -> None:
        self.calls["step_failure"] += 1

    def on_step_retry(self, step: Step, exc: BaseException, delay: float) -> None:
        self.calls["step_retry"] += 1


@contextmanager
def at_work(engine: ProcessEngine, **options: Any) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=engine.work, kwargs=options)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(HANG)
        assert not thread.is_alive()


@pytest.mark.parametrize("executor", ["inline", "loky"])
def test_hooks_are_called_once_per_event_however_often_the_broker_is_killed(store: Path, executor: str) -> None:
    count = Count()
    workflow = adding()
    workflow.add_policy(count)
    with LocalBroker(store) as broker:
        runs = broker.dispatch_many(workflow.to_schema(), [{"a": i} for i in range(200)])
        engine = ProcessEngine(broker, [workflow], processes=2, executor=executor)
        with at_work(engine):
            for _ in range(6):
                broker.list_runs(state=State.PENDING)  # it is there again
                os.kill(broker.pid, signal.SIGKILL)
        assert [broker.result(run) for run in runs] == [2 * (i + 10) for i in range(200)]
        assert {step.attempts for run in runs for step in broker.get_run(run).steps.values()} == {1}
    wait_gone(broker.pid)
    expected = {"workflow_start": 200, "workflow_succeeded": 200, "step_start": 400, "step_success": 400}
    assert count.calls == expected


class Queueing(InlineExecutor):
    """Takes some steps, and begins one when it is asked for reports; all have had their turn, if it is ``eager``."""

    def __init__(self, room: int, *, eager: bool = False) -> None:
        super().__init__()
        self._room = room
        self._eager = eager
        self._queue: deque[StepAssignment] = deque()
        self._begun: list[int] = []

    def free_slots(self) -> int:
        return self._room - len(self._queue)

    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        self._queue.extend(assignments)
        if self._eager:
            self._begun += [assignment.token for assignment in assignments]
        self._inbox.wake()

    def poll(self) -> list[AttemptReport]:
        if self._queue:
            first = self._queue.popleft()
            self._begun.append(first.token)
            super().submit([first])
        return super().poll()

    def begun(self) -> list[int]:
        begun, self._begun = self._begun, []
        return begun

    def recall(self, tokens: Collection[int] | None = None) -> None:
        for assignment in list(self._queue):
            if tokens is None or assignment.token in tokens:
                self._queue.remove(assignment)
                self._inbox.put(never_started(assignment))


class Tell(Step):
    """Says that it runs; number 0 stops the engine."""

    def __init__(self, said: list[int], engines: list[ProcessEngine], **options: Any) -> None:
        super().__init__(**options)
        self.said = said
        self.engines = engines

    def run_step(self, number: int) -> int:
        self.said.append(number)
        if number == 0:
            self.engines[0].stop()
        return number


@pytest.mark.parametrize("eager", [False, True])
def test_a_start_is_told_once_though_an_engine_stops_that_has_not_begun_all_it_holds(
    broker: Broker, *, eager: bool
) -> None:
    count, said, engines = Count(), list[int](), list[ProcessEngine]()
    workflow = Workflow(outputs=[Tell(said, engines)], name="tell", policies=[count])
    runs = broker.dispatch_many(workflow.to_schema(), [{"number": number} for number in range(3)])
    engines.append(ProcessEngine(broker, [workflow], executor=Queueing(3, eager=eager)))
    engines[0].work()
    assert (said, count.calls["workflow_start"]) == ([0], 3 if eager else 1)
    assert broker.get_run(runs[2]).state is State.RUNNING, "it was handed out, and given back"
    ProcessEngine(broker, [workflow], executor="inline").work()
    assert [broker.result(run) for run in runs] == said == [0, 1, 2]
    starts = 5 if eager else 3  # of steps: the turn of two has come twice
    assert count.calls == {"workflow_start": 3, "workflow_succeeded": 3, "step_start": starts, "step_success": 3}


class StopsBeforeItGives(LocalBroker):
    """Stops its engine when it has steps for it, and gives them only then."""

    engine: ProcessEngine | None = None
    late: Sequence[StepAssignment] = ()

    def trade(self, worker_id: str, reports: Any, room: int) -> Traded:
        answers, assignments = super().trade(worker_id, reports, room)
        late, self.late = self.late, ()
        if self.engine is not None and assignments:
            self.engine.stop()
            self.engine, self.late, assignments = None, assignments, ()
            self.news(worker_id).set()
        return Traded(answers, [*late, *assignments])


def test_a_start_is_told_once_though_what_arrives_is_handed_back_at_once(store: Path) -> None:
    count = Count()
    workflow = adding()
    workflow.add_policy(count)
    with StopsBeforeItGives(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1})
        broker.engine = engine = ProcessEngine(broker, [workflow], executor=Queueing(1))
        engine.work()
        ProcessEngine(broker, [workflow], executor="inline").work()
        assert broker.result(run) == 22
    wait_gone(broker.pid)
    assert count.calls == {"workflow_start": 1, "workflow_succeeded": 1, "step_start": 2, "step_success": 2}


class Order(WorkflowPolicy):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_workflow_start(self, workflow: Workflow) -> None:
        self.calls.append("start")

    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        self.calls.append(f"{state}")

    def on_step_start(self, step: Step) -> None:
        self.calls.append(f"start of {step.name}")


class LastFirst(Queueing):
    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        super().submit(assignments[::-1])


def test_the_start_of_a_run_is_told_before_whichever_of_its_steps_begins_first() -> None:
    order, broker = Order(), MemoryBroker()
    workflow = Workflow(outputs=[Fail(name="a"), Fail(name="b")], name="failing", policies=[order])
    broker.dispatch_workflow(workflow.to_schema())
    ProcessEngine(broker, [workflow], executor=LastFirst(2)).work()
    assert order.calls == ["start", "start of b", "FAILED"], "a was recalled"


class KilledAfterCommit(LocalBroker):
    """Kills the broker process when a report is on its way, and cuts the link before the answer can come."""

    def trade(self, worker_id: str, reports: Any, room: int) -> Traded:
        if reports and not getattr(self, "killed", False):
            self.killed = True
            worker = self._workers[worker_id]
            answers = worker.report_steps(reports)  # it is accepted, and we forget that
            assert [answer.step_state for answer in answers] != [None]
            for report in reports:
                worker._held[report.token] = (report.instance_id, report.step_name, None)  # type: ignore[assignment]
            os.kill(self.pid, signal.SIGKILL)
            wait_gone(self.pid)
        return super().trade(worker_id, reports, room)


@pytest.mark.parametrize(
    ("workflow", "expected"),
    [
        (adding(), {"workflow_start": 1, "workflow_succeeded": 1, "step_start": 2, "step_success": 2}),
        (
            Workflow(outputs=[Fail(policies=[RetryPolicy(1)])], name="failing"),
            {"workflow_start": 1, "workflow_failed": 1, "step_start": 2, "step_failure": 2, "step_retry": 1},
        ),
        (
            Workflow(outputs=[Fail()], name="failing"),
            {"workflow_start": 1, "workflow_failed": 1, "step_start": 1, "step_failure": 1},
        ),
    ],
    ids=["succeeds", "is retried", "fails"],
)
def test_a_report_whose_answer_was_lost_is_answered_as_it_was(
    store: Path, workflow: Workflow, expected: dict[str, int]
) -> None:
    count = Count()
    workflow.add_policy(count)
    with KilledAfterCommit(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1} if workflow.name == "adding" else None)
        ProcessEngine(broker, [workflow], processes=1, executor="inline").work()
        assert broker.killed
        assert broker.get_run(run).state.is_settled
    wait_gone(broker.pid)
    assert count.calls == expected


def test_engines_share_the_work_of_a_broker(store: Path, tmp_path: Path) -> None:
    workflow = Workflow(outputs=[Log()], name="log")
    log = tmp_path / "log"
    with LocalBroker(store) as one, LocalBroker(store) as two:
        runs = one.dispatch_many(workflow.to_schema(), [{"log": str(log), "number": i} for i in range(200)])
        with at_work(ProcessEngine(one, [workflow], processes=1)), at_work(ProcessEngine(two, [workflow], processes=1)):
            pass
        assert [two.result(run) for run in runs] == list(range(200))
    wait_gone(one.pid)
    assert Counter(starts(log)) == dict.fromkeys(map(str, range(200)), 1)


def test_an_engine_waits_for_the_steps_of_another(store: Path) -> None:
    workflow = Workflow(outputs=[Hold()], name="hold")
    with Gate() as gate, LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        with at_work(ProcessEngine(broker, [workflow], processes=1)):
            gate.wait_entered()
            with at_work(ProcessEngine(broker, [workflow], processes=1)) as second:
                assert second.is_alive()
                gate.open()
        assert broker.result(run) == "held"
    wait_gone(broker.pid)


def test_a_run_that_is_dispatched_later_wakes_an_engine_that_serves(store: Path) -> None:
    workflow = adding()
    with LocalBroker(store) as broker:
        engine = ProcessEngine(broker, [workflow], processes=1, executor="inline")
        with at_work(engine, block=True):
            for i in range(5):
                run = broker.dispatch_workflow(workflow.to_schema(), {"a": i})
                assert broker.result(run, timeout=HANG) == 2 * (i + 10)
            engine.stop()
    wait_gone(broker.pid)


def test_a_retry_that_is_due_wakes_an_engine(store: Path) -> None:
    workflow = Workflow(outputs=[Fail(policies=[RetryPolicy(2, wait=0.05)])], name="failing")
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema())
        ProcessEngine(broker, [workflow], processes=1, executor="inline").work()
        assert broker.get_run(run).steps["Fail"].attempts == 3
    wait_gone(broker.pid)


def test_run_returns_when_its_own_run_has_ended(store: Path) -> None:
    """The held run of somebody else, of the same workflow, is not waited for."""
    workflow = Workflow(outputs=[Hold()], name="hold")
    with Gate() as gate, Gate() as other, LocalBroker(store) as broker, LocalBroker(store) as stranger:
        held = stranger.dispatch_workflow(workflow.to_schema(), {"gate": other})
        with at_work(ProcessEngine(stranger, [workflow], processes=1)):
            other.wait_entered()
            results: list[Any] = []
            thread = threading.Thread(
                target=lambda: results.append(workflow.run({"gate": gate}, broker=broker, processes=1))
            )
            thread.start()
            gate.wait_entered()
            gate.open()
            thread.join(HANG)
            assert results == ["held"]
            assert stranger.get_run(held).state is State.RUNNING
            other.open()
    wait_gone(broker.pid)


def test_run_fails_as_with_any_broker(broker: Broker) -> None:
    with pytest.raises(RunFailed) as caught:
        Workflow(outputs=[Fail()], name="failing").run(broker=broker, executor="inline")
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_was_never_begun_counts_nothing_when_a_worker_leaves(store: Path) -> None:
    workflow = adding()
    schema = workflow.to_schema()
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(schema, {"a": 1})
        worker_id = broker.register_worker([schema])
        assignment = broker.get_step(worker_id)
        assert assignment is not None
        report = StepReport(
            workflow_id=assignment.workflow_id,
            instance_id=assignment.instance_id,
            step_name=assignment.step_name,
            state=State.READY,
            token=assignment.token,
        )
        broker.report_step(worker_id, report)
        assert broker.get_run(run).steps["Add"].attempts == 0
        broker.unregister_worker(worker_id)
    wait_gone(broker.pid)
    with LocalBroker(store) as broker:
        ProcessEngine(broker, [workflow], processes=1, executor="inline").work()
        assert broker.get_run(run).steps["Add"].attempts == 1
    wait_gone(broker.pid)
