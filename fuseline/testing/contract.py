"""ExecutorContract: what every backend must do, as tests that any backend can run.

Needs no plugin or fixture; pytest finds the ``test_`` methods of a subclass. What a backend says it cannot do
(``kills``, ``isolates_crashes``) is not asked of it.
"""

from __future__ import annotations

import os
import select
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from fuseline.encoding import decode, decode_error, encode
from fuseline.errors import NotPicklableError, RemoteStepError, StepCrashed, StepTimedOut
from fuseline.executors.base import Executor
from fuseline.messages import AttemptReport, FailureAction, Outcome, Payload, StepAssignment
from fuseline.policies import RetryPolicy, StepTimeoutPolicy
from fuseline.step import Step
from fuseline.testing import steps
from fuseline.testing.census import Census
from fuseline.testing.gate import HANG, Gate
from fuseline.values import Value
from fuseline.workflow import Workflow

__all__ = ["Bench", "ExecutorContract"]


class Bench:
    """An executor that is started with some steps, and hands to work it. Its ``with`` statement closes the executor."""

    def __init__(self, executor: Executor, *workpieces: Step) -> None:
        self.executor = executor
        self.workflow = Workflow(outputs=workpieces, name="bench")
        self.executor.start({"bench": self.workflow.hosted()})
        self._tokens = iter(range(1, 10**9))

    def submit(self, step: Step, attempt: int = 1, **arguments: Any) -> int:
        """Submit an attempt of ``step`` and return its token."""
        token = next(self._tokens)
        values: dict[str, Value | tuple[Value, ...]] = {name: encode(value) for name, value in arguments.items()}
        seconds = [p.seconds for p in step.policies if isinstance(p, StepTimeoutPolicy)]
        assignment = StepAssignment(
            workflow_id="bench",
            instance_id="run",
            step_name=step.name,
            payload=Payload(arguments=values, attempt=attempt, instance_id="run"),
            token=token,
            attempt=attempt,
            timeout=min(seconds, default=None),
        )
        self.executor.submit([assignment])
        return token

    def collect(self, count: int) -> dict[int, AttemptReport]:
        """Drive the executor until ``count`` reports are there; return them by token.

        Raises:
            AssertionError: they did not come, or more than one came for an assignment.
        """
        reports: dict[int, AttemptReport] = {}
        give_up = time.monotonic() + HANG
        while len(reports) < count:
            assert time.monotonic() < give_up, f"{len(reports)} of {count} reports after {HANG} s"
            until = self.executor.deadline()
            wait = 1.0 if until is None else min(1.0, max(0.0, until - time.monotonic()))
            select.select([self.executor.fileno()], [], [], wait)
            for report in self.executor.poll():
                assert report.token not in reports, f"a second report for assignment {report.token}"
                reports[report.token] = report
        return reports

    def run(self, step: Step, **arguments: Any) -> AttemptReport:
        """Submit one attempt and return its report."""
        token = self.submit(step, **arguments)
        return self.collect(1)[token]

    def run_all(self, step: Step, arguments: list[dict[str, Any]]) -> list[AttemptReport]:
        """Run an attempt for each of ``arguments``, as many at a time as there are slots; return reports in order."""
        waiting = list(reversed(arguments))
        tokens: list[int] = []
        reports: dict[int, AttemptReport] = {}
        while len(reports) < len(arguments):
            while waiting and self.executor.free_slots():
                tokens.append(self.submit(step, **waiting.pop()))
            reports |= self.collect(1)
        return [reports[token] for token in tokens]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.executor.close()


def error_of(report: AttemptReport) -> BaseException:
    """Return the exception in a report of something else than success."""
    assert report.error is not None, f"a report of {report.outcome} has no error"
    return decode_error(report.error, step_name="step")


def result_of(report: AttemptReport) -> Any:
    """Return the result in a report of success."""
    assert report.outcome is Outcome.RETURNED, f"{report.outcome}: {report.error}"
    assert report.result is not None
    return decode(report.result)


class ExecutorContract:
    """The contract as tests. Subclass it and set ``make_executor``.

    Attributes:
        make_executor: called without arguments, returns a new executor that is not started. It should have two slots,
            unless it can have only one.
    """

    make_executor: Callable[[], Executor]

    def setup_method(self) -> None:
        self._census = Census()

    def teardown_method(self) -> None:
        self._census.assert_nothing_left()

    def bench(self, *workpieces: Step) -> Bench:
        return Bench(self.make_executor(), *workpieces)

    # -- what comes back ----------------------------------------------------------------------------------------------

    def test_returns_the_result(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            report = bench.run(step, value={"a": [1, None, "x"]})
            assert result_of(report) == {"a": [1, None, "x"]}
            assert report.started is not None
            assert report.started <= time.monotonic()

    def test_none_is_a_value(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            assert result_of(bench.run(step, value=None)) is None

    def test_async_steps_run(self) -> None:
        step = steps.AsyncEcho()
        with self.bench(step) as bench:
            assert result_of(bench.run(step, value=7)) == 7

    def test_each_assignment_gives_one_report(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            reports = bench.run_all(step, [{"value": i} for i in range(50)])
            assert [result_of(report) for report in reports] == list(range(50))
            assert bench.executor.poll() == []

    def test_values_larger_than_a_pipe_travel_both_ways(self) -> None:
        step = steps.Echo()
        value = bytes(range(256)) * 20_000
        with self.bench(step) as bench:
            reports = bench.run_all(step, [{"value": value}] * 3)
            assert all(result_of(report) == value for report in reports)

    def test_an_exception_comes_back_with_its_traceback(self) -> None:
        step = steps.Raise()
        with self.bench(step) as bench:
            report = bench.run(step, value=3)
            assert report.outcome is Outcome.RAISED
            error = error_of(report)
            assert isinstance(error, ValueError)
            assert str(error) == "no good: 3"
            assert report.error is not None
            assert "run_step" in report.error.traceback

    def test_an_exception_that_cannot_be_shown_comes_back_all_the_same(self) -> None:
        step, good = steps.RaiseUnshowable(), steps.Echo()
        with self.bench(step, good) as bench:
            report = bench.run(step)
            assert report.outcome is Outcome.RAISED
            assert isinstance(error_of(report), steps.UnshowableError)
            assert result_of(bench.run(good, value=1)) == 1

    def test_the_policies_of_the_step_decide_where_it_ran(self) -> None:
        step = steps.Raise(policies=[RetryPolicy(1, wait=2.5)])
        with self.bench(step) as bench:
            report = bench.run(step)
            assert report.decision is not None
            assert report.decision.action is FailureAction.RETRY
            assert report.decision.delay == 2.5
            assert report.decided_by == 0

    # -- what cannot travel -------------------------------------------------------------------------------------------

    def test_a_result_that_cannot_be_pickled_fails_its_step_by_name(self) -> None:
        step, good = steps.ReturnLock(), steps.Echo()
        with self.bench(step, good) as bench:
            error = error_of(bench.run(step))
            assert isinstance(error, NotPicklableError)
            assert "'ReturnLock'" in str(error)
            assert "'lock'" in str(error)
            assert result_of(bench.run(good, value=1)) == 1

    def test_a_result_that_cannot_be_unpickled_fails_its_step_by_name(self) -> None:
        step, good = steps.ReturnCannotLoad(), steps.Echo()
        with self.bench(step, good) as bench:
            error = error_of(bench.run(step))
            assert isinstance(error, NotPicklableError)
            assert "'ReturnCannotLoad'" in str(error)
            assert "cannot be loaded" in str(error)
            assert result_of(bench.run(good, value=1)) == 1

    def test_an_exception_that_cannot_be_unpickled_has_a_stand_in(self) -> None:
        step, good = steps.RaiseCannotLoad(), steps.Echo()
        with self.bench(step, good) as bench:
            error = error_of(bench.run(step))
            assert isinstance(error, RemoteStepError)
            assert error.type_name.endswith("CannotLoadError")
            assert error.original_message == "fit: diverged"
            assert result_of(bench.run(good, value=1)) == 1

    def test_an_argument_that_cannot_be_unpickled_fails_its_step(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            error = error_of(bench.run(step, value=steps.CannotLoad()))
            assert "cannot be loaded" in str(error)
            assert result_of(bench.run(step, value=1)) == 1

    # -- what tries to end the program --------------------------------------------------------------------------------

    def test_sys_exit_ends_the_attempt_only(self) -> None:
        step, good = steps.LeaveByExit(), steps.Echo()
        with self.bench(step, good) as bench:
            report = bench.run(step, value=3)
            assert report.outcome is Outcome.RAISED
            error = error_of(report)
            assert isinstance(error, StepCrashed)
            assert error.exit_code == 3
            assert result_of(bench.run(good, value=1)) == 1

    def test_keyboard_interrupt_in_a_step_ends_the_attempt_only(self) -> None:
        step, good = steps.Interrupt(), steps.Echo()
        with self.bench(step, good) as bench:
            assert isinstance(error_of(bench.run(step)), StepCrashed)
            assert result_of(bench.run(good, value=1)) == 1

    def test_a_crash_ends_one_attempt_and_tells_how(self) -> None:
        if not self.make_executor().isolates_crashes:
            return
        for how, code, name in ((0, 0, None), (3, 3, None), ("SIGKILL", None, "SIGKILL"), ("SIGSEGV", None, "SIGSEGV")):
            step, good = steps.Die(), steps.Echo()
            with self.bench(step, good) as bench:
                bad = bench.submit(step, how=how)
                if bench.executor.free_slots():
                    sibling = bench.submit(good, value=1)
                    reports = bench.collect(2)
                    assert result_of(reports[sibling]) == 1
                else:
                    reports = bench.collect(1)
                assert reports[bad].outcome is Outcome.LOST
                assert reports[bad].started is not None
                error = error_of(reports[bad])
                assert isinstance(error, StepCrashed)
                assert (error.exit_code, error.signal_name) == (code, name)
                assert result_of(bench.run(good, value=2)) == 2

    # -- setup and teardown -------------------------------------------------------------------------------------------

    def test_setup_runs_once_where_the_step_runs_and_teardown_at_the_end(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            step = steps.CountSetups(os.path.join(folder, "log"))
            with self.bench(step) as bench:
                assert {result_of(report) for report in bench.run_all(step, [{}] * 6)} == {1}
                children = bench.executor.processes if bench.executor.pickles else 1
            with open(step.path) as log:
                lines = log.read().splitlines()
            assert set(lines) == {"torn down after 1"}
            assert 1 <= len(lines) <= children

    def test_a_failing_setup_fails_the_attempt(self) -> None:
        step = steps.FailingSetup()
        with self.bench(step) as bench:
            for _ in range(2):
                error = error_of(bench.run(step))
                assert isinstance(error, OSError)
                assert str(error) == "no such model"

    # -- time ---------------------------------------------------------------------------------------------------------

    def test_a_timeout_ends_a_loop(self) -> None:
        step, good = steps.SpinForever(policies=[StepTimeoutPolicy(0.2)]), steps.Echo()
        with self.bench(step, good) as bench:
            report = bench.run(step)
            assert report.outcome is Outcome.TIMED_OUT
            error = error_of(report)
            assert isinstance(error, StepTimedOut)
            assert error.timeout == 0.2
            assert error.killed is bench.executor.kills
            assert result_of(bench.run(good, value=1)) == 1

    def test_a_timeout_ends_a_c_call_if_the_executor_kills(self) -> None:
        if not self.make_executor().kills:
            return
        step, good = steps.StuckInC(policies=[StepTimeoutPolicy(0.2)]), steps.Echo()
        with self.bench(step, good) as bench:
            assert bench.run(step).outcome is Outcome.TIMED_OUT
            assert result_of(bench.run(good, value=1)) == 1

    def test_a_step_within_its_timeout_is_left_alone(self) -> None:
        step = steps.Echo(policies=[StepTimeoutPolicy(HANG)])
        with self.bench(step) as bench:
            assert result_of(bench.run(step, value=1)) == 1

    # -- killing ------------------------------------------------------------------------------------------------------

    def test_a_killed_assignment_is_reported_when_its_processes_are_gone(self) -> None:
        if not self.make_executor().kills:
            return
        step, good = steps.HoldWithChild(), steps.Echo()
        with Gate() as gate, self.bench(step, good) as bench:
            token = bench.submit(step, gate=gate)
            pids = [int(pid) for pid in gate.wait_entered().split()]
            bench.executor.kill(token)
            report = bench.collect(1)[token]
            assert report.outcome is Outcome.KILLED
            assert not [pid for pid in pids if is_running(pid)]
            assert result_of(bench.run(good, value=1)) == 1

    def test_killing_what_has_ended_or_never_was_does_nothing(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            token = bench.submit(step, value=1)
            assert result_of(bench.collect(1)[token]) == 1
            bench.executor.kill(token)
            bench.executor.kill(10**6)
            assert bench.executor.poll() == []
            assert result_of(bench.run(step, value=2)) == 2

    # -- slots, life, end ---------------------------------------------------------------------------------------------

    def test_an_assignment_takes_room_from_submit_to_report(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            free = bench.executor.free_slots()
            assert free >= 1
            bench.submit(step, value=1)
            assert bench.executor.free_slots() == free - 1
            bench.collect(1)
            assert bench.executor.free_slots() >= free  # more, if it has seen that steps are short

    def test_slots_work_side_by_side(self) -> None:
        step = steps.Hold()
        with self.bench(step) as bench:
            if bench.executor.free_slots() < 2:
                return
            with Gate() as first, Gate() as second:
                tokens = [bench.submit(step, gate=gate) for gate in (first, second)]
                first.wait_entered()
                second.wait_entered()  # both are in the middle now
                first.open()
                second.open()
                reports = bench.collect(2)
                assert [result_of(reports[token]) for token in tokens] == ["let go", "let go"]

    def test_can_be_closed_twice_and_without_start(self) -> None:
        executor = self.make_executor()
        executor.close()
        step = steps.Echo()
        bench = Bench(executor, step)
        assert result_of(bench.run(step, value=1)) == 1
        executor.close()
        executor.close()

    def test_serves_one_engine_at_a_time(self) -> None:
        executor, step = self.make_executor(), steps.Echo()
        with Bench(executor, step) as bench:
            try:
                executor.start({})
            except RuntimeError as error:
                assert "in use" in str(error)  # noqa: PT017 - this suite does without pytest
            else:
                raise AssertionError("an executor that is started was started again")
            assert result_of(bench.run(step, value=1)) == 1

    def test_can_be_started_again(self) -> None:
        executor, step = self.make_executor(), steps.Echo()
        for value in (1, 2):
            with Bench(executor, step) as bench:
                assert result_of(bench.run(step, value=value)) == value

    def test_what_was_left_is_forgotten_when_it_is_started_again(self) -> None:
        executor, step = self.make_executor(), steps.Echo()
        with Bench(executor, step) as bench:
            free = executor.free_slots()
            bench.submit(step, value=1)
        with Bench(executor, step):
            assert executor.poll() == []
            assert executor.free_slots() == free

    def test_close_ends_what_runs(self) -> None:
        if not self.make_executor().kills:
            return
        step = steps.HoldWithChild()
        with Gate() as gate:
            with self.bench(step) as bench:
                token = bench.submit(step, gate=gate)
                pids = [int(pid) for pid in gate.wait_entered().split()]
            assert not [pid for pid in pids if is_running(pid)]
            [report] = bench.executor.poll()
            assert (report.token, report.outcome) == (token, Outcome.KILLED)


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
