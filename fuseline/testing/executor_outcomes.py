"""What an executor reports: results, exceptions, crashes, timeouts, and what cannot travel."""

from __future__ import annotations

import os
import tempfile
import time

from fuseline.errors import NotPicklableError, RemoteStepError, StepCrashed, StepOutOfMemory, StepTimedOut
from fuseline.messages import FailureAction, Outcome
from fuseline.policies import MemoryLimitPolicy, RetryPolicy, StepTimeoutPolicy
from fuseline.step import Step
from fuseline.testing import steps
from fuseline.testing.bench import Bench, BenchContract, error_of, is_running, result_of
from fuseline.testing.gate import HANG
from fuseline.testing.promise import expect, not_asked, promise

__all__ = ["OutcomeContract"]


def goes_on(bench: Bench, good: Step) -> None:
    """Check that the executor still works."""
    expect("the result of the next step", result_of(bench.run(good, value=1)), 1)


class OutcomeContract(BenchContract):
    """The half of the contract about what comes back."""

    # -- what comes back ----------------------------------------------------------------------------------------------

    @promise("what a step returns is in the report, with the time at which it started")
    def test_returns_the_result(self) -> None:
        step = steps.Echo()
        before = time.monotonic()
        with self.bench(step) as bench:
            report = bench.run(step, value={"a": [1, None, "x"]})
            expect("the result", result_of(report), {"a": [1, None, "x"]})
            assert report.started is not None, "a report without a time of start, which means that it never started"
            assert before <= report.started <= time.monotonic(), f"it started at {report.started}, not by this clock"
            assert report.error is None, f"a report of RETURNED with an error: {report.error!r:.300}"

    @promise("None is a result like any other")
    def test_none_is_a_value(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            expect("the result", result_of(bench.run(step, value=None)), None)

    @promise("a step whose run_step is async runs like any other")
    def test_async_steps_run(self) -> None:
        step = steps.AsyncEcho()
        with self.bench(step) as bench:
            expect("the result", result_of(bench.run(step, value=7)), 7)

    @promise("each accepted assignment gives exactly one report")
    def test_each_assignment_gives_one_report(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            reports = bench.run_all(step, [{"value": i} for i in range(50)])
            expect("the results of 50 assignments", [result_of(report) for report in reports], list(range(50)))
            expect("what poll() returns after all 50", bench.executor.poll(), [])
        expect("what the last poll() returns, after close()", bench.executor.poll(), [])

    @promise("several assignments may be submitted at once, as many as free_slots() says, and none")
    def test_takes_several_at_once(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            bench.executor.submit([])
            assignments = [bench.assign(step, value=i) for i in range(bench.executor.free_slots())]
            bench.executor.submit(assignments)
            reports = bench.collect(len(assignments))
            expect("the assignments reported on", sorted(reports), [each.token for each in assignments])
            results = [result_of(reports[each.token]) for each in assignments]
            expect("the results, by assignment", results, list(range(len(assignments))))

    @promise("values larger than a pipe travel both ways")
    def test_values_larger_than_a_pipe_travel_both_ways(self) -> None:
        step = steps.Echo()
        value = bytes(range(256)) * 20_000
        with self.bench(step) as bench:
            reports = bench.run_all(step, [{"value": value}] * 3)
            assert all(result_of(report) == value for report in reports), "what came back is not what was sent"

    @promise("what a step raises is in the report, with the traceback of where it ran")
    def test_an_exception_comes_back_with_its_traceback(self) -> None:
        step = steps.Raise()
        with self.bench(step) as bench:
            report = bench.run(step, value=3)
            expect("the outcome", report.outcome, Outcome.RAISED)
            error = error_of(report)
            expect("the exception", (type(error), str(error)), (ValueError, "no good: 3"))
            assert report.error is not None
            assert "run_step" in report.error.traceback, f"the traceback is {report.error.traceback!r:.300}"

    @promise("an exception that cannot be shown comes back all the same")
    def test_an_exception_that_cannot_be_shown_comes_back_all_the_same(self) -> None:
        step, good = steps.RaiseUnshowable(), steps.Echo()
        with self.bench(step, good) as bench:
            report = bench.run(step)
            expect("the outcome", report.outcome, Outcome.RAISED)
            expect("the exception", type(error_of(report)), steps.UnshowableError)
            goes_on(bench, good)

    @promise("the policies of a step decide about a failure where it ran, and the report says what and which")
    def test_the_policies_of_the_step_decide_where_it_ran(self) -> None:
        step = steps.Raise(policies=[RetryPolicy(1, wait=2.5)])
        with self.bench(step) as bench:
            report = bench.run(step)
            assert report.decision is not None, "a report of RAISED without a decision"
            decided = (report.decision.action, report.decision.delay, report.decided_by)
            expect("action, delay and place of the policy", decided, (FailureAction.RETRY, 2.5, 0))

    @promise("an executor never tries again by itself: a failure is reported, and what follows is decided elsewhere")
    def test_a_failure_is_reported_and_not_tried_again(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "starts")
            step = steps.MarkAndRaise(policies=[RetryPolicy(3)])
            with self.bench(step) as bench:
                expect("the outcome", bench.run(step, path=path).outcome, Outcome.RAISED)
            expect("how often it was started", os.path.getsize(path), 1)

    # -- what cannot travel -------------------------------------------------------------------------------------------

    @promise("a result that cannot be pickled gives a failed report that names step and object")
    def test_a_result_that_cannot_be_pickled_fails_its_step_by_name(self) -> None:
        step, good = steps.ReturnLock(), steps.Echo()
        with self.bench(step, good) as bench:
            error = error_of(bench.run(step))
            expect("the class of the error", type(error), NotPicklableError)
            assert "'ReturnLock'" in str(error), f"the error does not name the step: {error}"
            assert "'lock'" in str(error), f"the error does not name the part to blame: {error}"
            goes_on(bench, good)

    @promise("a result that cannot be unpickled gives a failed report that names step and reason")
    def test_a_result_that_cannot_be_unpickled_fails_its_step_by_name(self) -> None:
        step, good = steps.ReturnCannotLoad(), steps.Echo()
        with self.bench(step, good) as bench:
            error = error_of(bench.run(step))
            expect("the class of the error", type(error), NotPicklableError)
            assert "'ReturnCannotLoad'" in str(error), f"the error does not name the step: {error}"
            assert "cannot be loaded" in str(error), f"the error does not give the reason: {error}"
            goes_on(bench, good)

    @promise("an exception that cannot be unpickled is reported by a stand-in with its class and message")
    def test_an_exception_that_cannot_be_unpickled_has_a_stand_in(self) -> None:
        step, good = steps.RaiseCannotLoad(), steps.Echo()
        with self.bench(step, good) as bench:
            error = error_of(bench.run(step))
            assert isinstance(error, RemoteStepError), f"the error is {error!r:.300}"
            assert error.type_name.endswith("CannotLoadError"), f"the stand-in is for a {error.type_name}"
            expect("its message", error.original_message, "fit: diverged")
            goes_on(bench, good)

    @promise("an argument that cannot be unpickled gives a failed report with the reason")
    def test_an_argument_that_cannot_be_unpickled_fails_its_step(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            error = error_of(bench.run(step, value=steps.CannotLoad()))
            assert "cannot be loaded" in str(error), f"the error does not give the reason: {error!r:.300}"
            goes_on(bench, step)

    @promise("a step that cannot be pickled is refused by start() with a NotPicklableError that names it and the part")
    def test_a_step_that_cannot_be_pickled_is_refused_at_start(self) -> None:
        executor, bad, good = self.make_executor(), steps.HasLock(), steps.Echo()
        if not executor.pickles:
            not_asked("this executor does not pickle steps")
        try:
            self.bench_of(executor, bad)
        except NotPicklableError as error:
            assert "'HasLock'" in str(error), f"the error does not name the step: {error}"  # noqa: PT017
            assert "'lock'" in str(error), f"the error does not name the part to blame: {error}"  # noqa: PT017
        else:
            executor.close()
            raise AssertionError("start() took a step that holds a lock")
        with self.bench_of(executor, good) as bench:  # the refusal has left it as it was
            goes_on(bench, good)

    # -- what tries to end the program --------------------------------------------------------------------------------

    @promise("sys.exit() in a step ends that attempt only, and the report has the code")
    def test_sys_exit_ends_the_attempt_only(self) -> None:
        step, good = steps.LeaveByExit(), steps.Echo()
        with self.bench(step, good) as bench:
            report = bench.run(step, value=3)
            expect("the outcome", report.outcome, Outcome.RAISED)
            error = error_of(report)
            assert isinstance(error, StepCrashed), f"the error is {error!r:.300}"
            expect("its exit code", error.exit_code, 3)
            goes_on(bench, good)

    @promise("KeyboardInterrupt in a step ends that attempt only")
    def test_keyboard_interrupt_in_a_step_ends_the_attempt_only(self) -> None:
        step, good = steps.Interrupt(), steps.Echo()
        with self.bench(step, good) as bench:
            expect("the class of the error", type(error_of(bench.run(step))), StepCrashed)
            goes_on(bench, good)

    @promise("a crash ends one attempt, which is reported as LOST with exit code or signal; siblings carry on")
    def test_a_crash_ends_one_attempt_and_tells_how(self) -> None:
        if not self.make_executor().isolates_crashes:
            not_asked("this executor does not isolate crashes")
        step, good = steps.Die(), steps.Echo()
        with self.bench(step, good) as bench:
            for how, code, name in (
                (0, 0, None),
                (3, 3, None),
                ("SIGKILL", None, "SIGKILL"),
                ("SIGSEGV", None, "SIGSEGV"),
            ):
                bad = bench.submit(step, how=how)
                siblings = [bench.submit(good, value=1)] if bench.executor.free_slots() else []
                reports = bench.collect(1 + len(siblings))
                expect("the outcome", reports[bad].outcome, Outcome.LOST)
                assert reports[bad].started is not None, "a report of what crashed without a time of start"
                error = error_of(reports[bad])
                assert isinstance(error, StepCrashed), f"the error is {error!r:.300}"
                expect("exit code and signal", (error.exit_code, error.signal_name), (code, name))
                expect("the results of siblings", [result_of(reports[s]) for s in siblings], [1] * len(siblings))
                goes_on(bench, good)

    # -- setup and teardown -------------------------------------------------------------------------------------------

    @promise("setup runs once where the step runs, and teardown once at the end of it")
    def test_setup_runs_once_where_the_step_runs_and_teardown_at_the_end(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            step = steps.CountSetups(os.path.join(folder, "log"))
            with self.bench(step) as bench:
                setups = {result_of(report) for report in bench.run_all(step, [{}] * 6)}
                expect("how often it was set up where it ran", setups, {1})
            assert os.path.exists(step.path), "nothing was torn down"
            with open(step.path) as log:
                lines = log.read().splitlines()
            expect("what was torn down", {line.rpartition(" in ")[0] for line in lines}, {"torn down after 1"})
            places = len(set(lines))  # processes
            assert len(lines) == places, f"{len(lines)} teardowns in {places} places"

    @promise("a failing setup fails the attempt, each time")
    def test_a_failing_setup_fails_the_attempt(self) -> None:
        step = steps.FailingSetup()
        with self.bench(step) as bench:
            for _ in range(2):
                error = error_of(bench.run(step))
                assert isinstance(error, OSError), f"the error is {error!r:.300}"
                expect("its message", str(error), "no such model")

    # -- time ---------------------------------------------------------------------------------------------------------

    @promise("an attempt that runs longer than its timeout is ended and reported as TIMED_OUT")
    def test_a_timeout_ends_a_loop(self) -> None:
        step, good = steps.SpinForever(policies=[StepTimeoutPolicy(0.2)]), steps.Echo()
        with self.bench(step, good) as bench:
            submitted = time.monotonic()
            report = bench.run(step)
            passed = time.monotonic() - submitted
            expect("the outcome", report.outcome, Outcome.TIMED_OUT)
            assert passed >= 0.2, f"it was ended {passed:.3f} s after it was submitted, with a timeout of 0.2 s"
            error = error_of(report)
            assert isinstance(error, StepTimedOut), f"the error is {error!r:.300}"
            expect("its timeout", error.timeout, 0.2)
            expect("whether it says that the step was killed", error.killed, bench.executor.kills)
            goes_on(bench, good)

    @promise("an executor that kills ends what is stuck in C when its time is up")
    def test_a_timeout_ends_a_c_call_if_the_executor_kills(self) -> None:
        if not self.make_executor().kills:
            not_asked("this executor does not kill")
        step, good = steps.StuckInC(policies=[StepTimeoutPolicy(0.2)]), steps.Echo()
        with self.bench(step, good) as bench:
            expect("the outcome", bench.run(step).outcome, Outcome.TIMED_OUT)
            goes_on(bench, good)

    @promise("what is ended because its time is up is gone, with all that it started, before the report appears")
    def test_what_had_its_time_is_reported_when_its_processes_are_gone(self) -> None:
        if not self.make_executor().kills:
            not_asked("this executor does not kill")
        step, good = steps.HoldWithChild(policies=[StepTimeoutPolicy(1.0)]), steps.Echo()
        with self.bench(step, good) as bench, self.gate() as gate:
            bench.submit(step, gate=gate)
            pids = [int(pid) for pid in gate.wait_entered().split()]
            [report] = bench.collect(1).values()
            expect("the processes that still run", [pid for pid in pids if is_running(pid)], [])
            expect("the outcome", report.outcome, Outcome.TIMED_OUT)
            goes_on(bench, good)

    @promise("an executor that limits memory ends a step whose process uses more, and says so")
    def test_a_step_that_takes_too_much_memory_is_ended(self) -> None:
        if not self.make_executor().limits_memory:
            not_asked("this executor does not limit memory")
        step, good = steps.TakeMemory(policies=[MemoryLimitPolicy(250e6)]), steps.Echo()
        with self.bench(step, good) as bench:
            report = bench.run(step, most=500_000_000)
            error = error_of(report)
            assert isinstance(error, StepOutOfMemory), f"the error is {error!r:.300}"
            expect("its limit", error.limit, 250_000_000)
            goes_on(bench, good)

    @promise("a step within its timeout is left alone")
    def test_a_step_within_its_timeout_is_left_alone(self) -> None:
        step = steps.Echo(policies=[StepTimeoutPolicy(HANG)])
        with self.bench(step) as bench:
            goes_on(bench, step)
