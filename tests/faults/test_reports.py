"""Reports that come twice, too late, or about nothing: one outcome, whichever broker hears of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from fuseline import RunFailed, State, StepCrashed, StepTimedOut, Workflow
from fuseline.broker import Broker, LocalBroker, StepAssignment, StepReport
from fuseline.errors import UnknownWorkerError
from fuseline.messages import ReportStatus
from fuseline.policies import RetryPolicy

from ..broker.conftest import wait_gone
from ..broker.workflows import Add, Double
from .housings import KINDS, open_broker

pytestmark = pytest.mark.usefixtures("checked")

ENDS = [State.SUCCEEDED, State.FAILED, State.SKIPPED, State.CANCELLED, State.READY]


def retried() -> Workflow:
    add, double = Add(policies=[RetryPolicy(1)]), Double()
    add >> double
    return Workflow(outputs=[double, add], name="retried")


SCHEMA = retried().to_schema()


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with open_broker(request.param, tmp_path) as broker:
        yield broker


class Desk:
    """A run, and a worker that has its first step."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.worker = broker.register_worker([SCHEMA])
        self.run = broker.dispatch_workflow(SCHEMA, {"a": 1})
        self.first = self.take()

    def take(self) -> StepAssignment:
        assignment = self.broker.get_step(self.worker, timeout=20.0)
        assert assignment is not None
        return assignment

    def report(self, report: StepReport) -> tuple[ReportStatus, State | None]:
        answer = self.broker.report_step(self.worker, report)
        return answer.status, answer.step_state

    def is_stale(self, report: StepReport) -> bool:
        """Report, and return whether that was called stale and has changed nothing."""
        before = self.broker.get_run(self.run)
        status, _ = self.report(report)
        after = self.broker.get_run(self.run)
        return status is ReportStatus.STALE and repr(after) == repr(before)

    def finish(self) -> object:
        """Do what is left, and return the result of the run."""
        while (assignment := self.broker.get_step(self.worker)) is not None:
            assert self.report(done(assignment, assignment.step_name))[0] is ReportStatus.ACCEPTED
        return self.broker.result(self.run)


@pytest.fixture
def desk(broker: Broker) -> Iterator[Desk]:
    desk = Desk(broker)
    yield desk
    broker.unregister_worker(desk.worker)


def done(assignment: StepAssignment, result: object = "late", state: State = State.SUCCEEDED) -> StepReport:
    return StepReport(
        workflow_id=assignment.workflow_id,
        instance_id=assignment.instance_id,
        step_name=assignment.step_name,
        state=state,
        result=result if state is State.SUCCEEDED else None,
        error=ValueError("late") if state is State.FAILED else None,
        token=assignment.token,
    )


def failed(assignment: StepAssignment, error: Exception) -> StepReport:
    return msgspec.structs.replace(done(assignment, state=State.FAILED), error=error)


def test_a_second_report_changes_nothing(desk: Desk) -> None:
    assert desk.report(done(desk.first, "first")) == (ReportStatus.ACCEPTED, State.SUCCEEDED)
    assert all(desk.is_stale(done(desk.first, "second", again)) for again in ENDS)
    assert desk.finish() == ["Double", "first"]
    assert all(desk.is_stale(done(desk.first, "third", again)) for again in ENDS)
    assert desk.broker.get_run(desk.run).steps["Add"].attempts == 1


KILLED = [
    StepCrashed(step_name="Add", how="died by SIGKILL", signal_name="SIGKILL"),
    StepTimedOut(step_name="Add", timeout=1.0, killed=True),
]


@pytest.mark.parametrize("error", KILLED, ids=lambda error: type(error).__name__)
def test_what_comes_after_a_kill_or_a_timeout_is_stale_before_during_and_after_the_next_attempt(
    desk: Desk, error: Exception
) -> None:
    assert desk.report(failed(desk.first, error))[0] is ReportStatus.ACCEPTED
    assert desk.is_stale(done(desk.first))
    second = desk.take()
    assert (second.step_name, second.attempt) == ("Add", 2)
    assert second.token != desk.first.token
    assert desk.is_stale(done(desk.first))
    assert desk.report(done(second, "right")) == (ReportStatus.ACCEPTED, State.SUCCEEDED)
    assert desk.is_stale(done(desk.first))
    assert desk.finish() == ["Double", "right"]


def test_what_comes_after_a_cancellation_does_not_revive_the_run(desk: Desk) -> None:
    assert desk.broker.cancel(desk.run)
    desk.report(done(desk.first))
    assert desk.is_stale(done(desk.first))
    info = desk.broker.get_run(desk.run)
    assert info.state is State.CANCELLED
    assert info.steps["Double"].state is State.CANCELLED
    assert desk.broker.get_step(desk.worker) is None


def test_what_the_worker_of_a_restarted_step_says_is_heard_from_nobody(desk: Desk) -> None:
    gone, desk.worker = desk.worker, desk.broker.register_worker([SCHEMA])
    desk.broker.unregister_worker(gone)
    second = desk.take()
    assert second.attempt == 2
    with pytest.raises(UnknownWorkerError):
        desk.broker.report_step(gone, done(desk.first))
    assert desk.is_stale(done(desk.first))  # not even through the one that has it now
    assert desk.report(done(second, "right"))[0] is ReportStatus.ACCEPTED
    assert desk.finish() == ["Double", "right"]


def test_what_was_never_assigned_is_unknown(desk: Desk) -> None:
    ahead = msgspec.structs.replace(done(desk.first), step_name="Double")
    nameless = msgspec.structs.replace(ahead, token=None)
    nowhere: list[Callable[[], StepReport]] = [
        lambda: nameless,
        lambda: msgspec.structs.replace(nameless, step_name="Nobody"),
        lambda: msgspec.structs.replace(nameless, instance_id="nowhere"),
        lambda: msgspec.structs.replace(done(desk.first), instance_id="nowhere"),
    ]
    for report in nowhere:
        assert desk.report(report())[0] is ReportStatus.UNKNOWN
    for token in (desk.first.token, desk.first.token + 1, 0, -1, 2**62):
        assert desk.report(msgspec.structs.replace(ahead, token=token))[0] is not ReportStatus.ACCEPTED
    assert desk.broker.get_run(desk.run).steps["Double"].state is State.PENDING
    assert desk.report(done(desk.first, "right"))[0] is ReportStatus.ACCEPTED
    assert desk.finish() == ["Double", "right"]


def test_what_comes_about_a_forgotten_run_is_unknown(desk: Desk) -> None:
    desk.report(failed(desk.first, KeyError("one")))
    desk.report(failed(desk.take(), KeyError("two")))
    with pytest.raises(RunFailed):
        desk.broker.result(desk.run)
    desk.broker.forget(desk.run)
    assert desk.report(done(desk.first))[0] is ReportStatus.UNKNOWN


@pytest.mark.parametrize("when", ["before the first report", "after it"])
def test_a_report_counts_once_though_the_broker_was_killed(tmp_path: Path, when: str) -> None:
    with LocalBroker(tmp_path / "runs.db") as broker:
        desk = Desk(broker)
        if when == "after it":
            assert desk.report(done(desk.first, "first")) == (ReportStatus.ACCEPTED, State.SUCCEEDED)
        os.kill(broker.pid, signal.SIGKILL)
        wait_gone(broker.pid)
        # Its answer may have been lost with the broker, so it is the same for the first that is sent over a new link.
        assert desk.report(done(desk.first, "second")) == (ReportStatus.ACCEPTED, State.SUCCEEDED)
        assert desk.is_stale(done(desk.first, "third"))
        assert desk.finish() == ["Double", "first" if when == "after it" else "second"]
        assert {step.attempts for step in broker.get_run(desk.run).steps.values()} == {1}
        broker.unregister_worker(desk.worker)
    wait_gone(broker.pid)
