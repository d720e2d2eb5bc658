"""What a broker makes of reports: outcomes, results that travel, failures and retries."""

from __future__ import annotations

import threading
import time
from collections import Counter

from fuseline.encoding import encode_error
from fuseline.errors import NotPicklableError, RunFailed, WorkflowError
from fuseline.messages import FailureDecision, ReportAnswer, ReportStatus, StepAssignment
from fuseline.policies import RetryPolicy
from fuseline.states import State
from fuseline.testing.office import Office, OfficeContract, report_of
from fuseline.testing.promise import expect, promise
from fuseline.values import Value
from fuseline.wakeup import wait_readable

__all__ = ["ReportsContract"]

#: Not what any pickler makes: whoever loads it fails.
_OPAQUE = Value(data=b"\x00 bytes that nobody may look into \xff")
#: Seconds that a retry waits: with a clock that a test moves, and with one that runs.
_WAIT, _SHORT_WAIT = 8.0, 0.05


class ReportsContract(OfficeContract):
    """The part of the contract about reports."""

    # -- reports ------------------------------------------------------------------------------------------------------

    @promise("the first report on an assignment is ACCEPTED, and its answer says what step and run went to")
    def test_a_report_is_accepted(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            office.broker.dispatch_workflow(schema)
            accepted = ReportAnswer(status=ReportStatus.ACCEPTED, step_state=State.SUCCEEDED)
            expect("the answer", office.succeed(worker, office.take(worker)), accepted)
            ended = ReportAnswer(status=ReportStatus.ACCEPTED, step_state=State.SUCCEEDED, run_state=State.SUCCEEDED)
            expect("the answer to the last", office.succeed(worker, office.take(worker)), ended)

    @promise("the same report twice counts once: the second is STALE and changes nothing")
    def test_a_second_report_is_stale(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b", outputs="a")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            assignment = office.take(worker)
            office.succeed(worker, assignment, "first")
            for state in (State.SUCCEEDED, State.FAILED, State.READY):
                expect("the answer", office.report(worker, assignment, state, result="late").status, ReportStatus.STALE)
            office.finish(worker)
            expect("the result", office.broker.result(run), "first")

    @promise("a report with the token of an earlier attempt is STALE and changes nothing")
    def test_a_report_of_an_earlier_attempt_is_stale(self) -> None:
        with self.office() as office:
            schema = office.schema("a", policies={"a": [RetryPolicy(1)]})
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            first = office.take(worker)
            office.report(worker, first, State.FAILED)
            second = office.take(worker)
            assert second.token != first.token, f"the token {first.token} was used again"
            expect("the answer", office.succeed(worker, first, "late").status, ReportStatus.STALE)
            office.succeed(worker, second, "second")
            expect("the result", office.broker.result(run), "second")

    @promise("a report on an assignment that another worker has is STALE and changes nothing")
    def test_a_report_by_another_worker_is_stale(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            mine, other = office.worker(schema), office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            assignment = office.take(mine)
            expect("the answer", office.succeed(other, assignment, "stolen").status, ReportStatus.STALE)
            office.succeed(mine, assignment, "mine")
            expect("the result", office.broker.result(run), "mine")

    @promise("a report on something that was never assigned is UNKNOWN and changes nothing")
    def test_a_report_on_what_was_never_assigned_is_unknown(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            assignment = office.take(worker)
            for strange in ({"instance_id": "ghost"}, {"step_name": "ghost"}, {"step_name": "b", "token": None}):
                answer = office.report(worker, assignment, State.SUCCEEDED, **strange)
                expect(f"the answer to a report on {strange}", answer.status, ReportStatus.UNKNOWN)
            expect("the state of the step", office.broker.get_run(run).steps["a"].state, State.RUNNING)

    @promise("report_steps() returns the answers in the order of the reports")
    def test_answers_come_in_the_order_of_the_reports(self) -> None:
        with self.office() as office:
            schema = office.schema("a b")
            worker = office.worker(schema)
            office.broker.dispatch_workflow(schema)
            one, two = office.broker.get_steps(worker, 2)
            reports = [report_of(each, State.SUCCEEDED) for each in (one, one, two)]
            answers = [answer.status for answer in office.broker.report_steps(worker, reports)]
            expect("the answers", answers, [ReportStatus.ACCEPTED, ReportStatus.STALE, ReportStatus.ACCEPTED])

    @promise("a state that no assignment ends with is refused and changes nothing")
    def test_a_state_that_no_assignment_ends_with_is_refused(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            assignment = office.take(worker)
            try:
                office.report(worker, assignment, State.RUNNING)
            except WorkflowError:
                pass
            else:
                raise AssertionError("report_step() took a report of RUNNING")
            expect("the state of the step", office.broker.get_run(run).steps["a"].state, State.RUNNING)

    @promise("a result that cannot be pickled makes the report one of failure")
    def test_a_result_that_cannot_be_pickled_is_a_failure(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            answer = office.succeed(worker, office.take(worker), threading.Lock())
            expect("the state of the step", answer.step_state, State.FAILED)
            expect("the error", type(office.broker.get_run(run).steps["a"].error), NotPicklableError)

    @promise("values are opaque: a broker passes bytes on and never loads them")
    def test_values_are_opaque(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b", policies={"b": [RetryPolicy(1)]})
            worker = office.worker(schema)
            office.broker.dispatch_workflow(schema)
            office.succeed(worker, office.take(worker), _OPAQUE)
            for _ in range(2):
                taken = office.take(worker)
                expect("what the next step is given", taken.payload.arguments["parts"], (_OPAQUE,))
                error = encode_error(ValueError("no"))
                error = type(error)(type_names=error.type_names, message=error.message, value=_OPAQUE)
                answer = office.report(worker, taken, State.FAILED, error=error)
            expect("what the step went to after two failures", answer.step_state, State.FAILED)

    @promise("an assignment that is handed back as READY is given out again, and counts as no attempt")
    def test_what_is_handed_back_is_given_out_again(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            worker = office.worker(schema)
            office.broker.dispatch_workflow(schema)
            first = office.take(worker)
            expect("what it went to", office.report(worker, first, State.READY).step_state, State.READY)
            again = office.take(worker)
            expect("its attempt", again.attempt, 1)
            assert again.token != first.token, f"the token {first.token} was used again"

    @promise("one assignment of a run says starts_run; if it is handed back, and not with told=True, the next one does")
    def test_the_start_of_a_run_is_told_once(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            office.broker.dispatch_workflow(schema)
            first = office.take(worker)
            office.report(worker, first, State.READY)
            second = office.take(worker)
            office.report(worker, second, State.READY, told=True)
            third = office.take(worker)
            office.succeed(worker, third)
            said = [each.payload.starts_run for each in (first, second, third, office.take(worker))]
            expect("what four in a row said", said, [True, True, False, False])

    @promise("a step that is skipped takes with it those that need it; the run can still succeed")
    def test_what_needs_a_skipped_step_is_skipped(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b c", outputs="b c")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            for assignment in office.broker.get_steps(worker, 5):
                skips = assignment.step_name == "a"
                office.report(worker, assignment, State.SKIPPED if skips else State.SUCCEEDED, result="done")
            expect("the state of what needed it", office.broker.get_run(run).steps["b"].state, State.SKIPPED)
            expect("the results", office.broker.result(run), [None, "done"])

    @promise("trade() takes reports and gives answers in their order and steps, now or when news have become readable")
    def test_a_run_can_be_traded_to_its_end(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b>c")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            statuses = [answer.status for answer in self._trade_all(office, worker, steps=3)]
            expect("the answers", statuses, [ReportStatus.ACCEPTED] * 3)
            expect("the result", office.broker.result(run, timeout=office.patience), "c")

    @staticmethod
    def _trade_all(office: Office, worker: str, steps: int) -> list[ReportAnswer]:
        """Trade until so many steps are answered, as an engine does; return the answers."""
        news = office.broker.news(worker)
        answers: list[ReportAnswer] = []
        assignments: list[StepAssignment] = []
        give_up = time.monotonic() + office.patience
        while len(answers) < steps:
            news.clear()
            reports = [report_of(each, State.SUCCEEDED, result=each.step_name) for each in assignments]
            traded = office.broker.trade(worker, reports, 1)
            answers += traded.answers
            assignments = list(traded.assignments)
            if not traded.answers and not assignments:
                readable = wait_readable([news.fileno()], give_up - time.monotonic())
                assert readable, f"{len(answers)} of {steps} answers, and no news in {office.patience:g} s"
        return answers

    # -- failures and retries -----------------------------------------------------------------------------------------

    @promise("when a step fails for good, nothing of its run starts any more, and the rest is cancelled")
    def test_a_failure_stops_its_run(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b c>d")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            failed, other = office.broker.get_steps(worker, 2)
            office.report(worker, failed, State.FAILED)
            answer = office.succeed(worker, other)
            expect("the state of the run", answer.run_state, State.FAILED)
            expect("what is given after that", office.broker.get_step(worker), None)
            states = Counter(step.state for step in office.broker.get_run(run).steps.values())
            expect("the states", states, Counter({State.FAILED: 1, State.SUCCEEDED: 1, State.CANCELLED: 2}))

    @promise("with on_failure='continue', branches that do not depend on a failed step still run")
    def test_other_branches_continue_where_they_should(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b c>d", on_failure="continue")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            failed, other = office.broker.get_steps(worker, 2)
            office.report(worker, failed, State.FAILED)
            office.succeed(worker, other)
            expect("what is given after that", len(office.finish(worker)), 1)
            expect("the state of the run", office.broker.get_run(run).state, State.FAILED)

    @promise("a retry waits in the broker: it holds no worker, is not given out before its time, and then to anybody")
    def test_a_retry_waits_in_the_broker(self) -> None:
        with self.office() as office:
            wait = _WAIT if self.clock is not None else _SHORT_WAIT
            schema = office.schema("a", policies={"a": [RetryPolicy(1, wait=wait)]})
            worker, other = office.worker(schema), office.worker(schema)
            office.broker.dispatch_workflow(schema)
            assignment = office.take(worker)
            before = time.monotonic()
            answer = office.report(worker, assignment, State.FAILED)
            expect("state and delay", (answer.step_state, answer.delay), (State.RETRYING, wait))
            again = self._await_retry(office, other, wait)
            waited = time.monotonic() - before
            assert self.clock is not None or waited >= wait, f"the retry came after {waited} s, not {wait} s"
            expect("attempts, on assignment and payload", (again.attempt, again.payload.attempt), (2, 2))
            expect("the failures that each policy has decided", again.payload.failures, {0: 1})
            expect("what follows the second failure", office.report(other, again, State.FAILED).run_state, State.FAILED)

    def _await_retry(self, office: Office, worker: str, wait: float) -> StepAssignment:
        """Return the retry when it is given out; fail if it is before its time."""
        if self.clock is None:
            again = office.await_step(worker)
        else:
            for part in (0.0, wait / 2):
                self.clock.advance(part)
                early = office.broker.get_step(worker)
                assert early is None, f"the retry was given out {wait - part} s before its time"
            due = office.broker.next_due(worker)
            expect("next_due() half of the wait before its end", due, wait / 2)
            self.clock.advance(wait / 2)
            again = office.broker.get_step(worker)
        assert again is not None, "the retry was not given out when its time had come"
        return again

    @promise("what an attempt has printed is what was reported of it")
    def test_the_output_of_an_attempt_is_kept(self) -> None:
        with self.office() as office:
            schema = office.schema("a", policies={"a": [RetryPolicy(1)]})
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            office.report(worker, office.take(worker), State.FAILED, output="no\n")
            office.report(worker, office.take(worker), State.SUCCEEDED, output="yes\n")
            expect("the output of attempt 1", office.broker.get_output(run, "a", 1), "no\n")
            expect("the output of the last attempt", office.broker.get_output(run, "a"), "yes\n")

    @promise("a run whose retry waits is not settled: unsettled() counts it")
    def test_a_waiting_retry_is_not_settled(self) -> None:
        with self.office() as office:
            schema = office.schema("a", policies={"a": [RetryPolicy(1, wait=3600.0)]})
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            office.report(worker, office.take(worker), State.FAILED)
            expect("what is given", office.broker.get_step(worker), None)
            expect("unsettled()", office.broker.unsettled(worker), 1)
            due = office.broker.next_due(worker)
            assert due is None or 0.0 < due <= 3600.0, f"next_due() is {due}, of a wait of 3600 s"
            office.broker.cancel(run)
            office.broker.get_step(worker)
            expect("unsettled() when the run is cancelled", office.broker.unsettled(worker), 0)

    @promise("what the worker has decided about a failure goes before the policies in the schema")
    def test_a_decision_in_the_report_counts(self) -> None:
        with self.office() as office:
            schema = office.schema("a", policies={"a": [RetryPolicy(5)]})
            worker = office.worker(schema)
            for decision, state in ((FailureDecision.FAIL, State.FAILED), (FailureDecision.SKIP, State.SKIPPED)):
                office.broker.dispatch_workflow(schema)
                said = FailureDecision(decision)
                answer = office.report(worker, office.take(worker), State.FAILED, decision=said)
                expect(f"what {decision} led to", answer.step_state, state)

    @promise("a step that fails for good gives its run the exception that was reported")
    def test_the_reported_exception_is_the_cause(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            office.report(worker, office.take(worker), State.FAILED, error=KeyError("x"))
            try:
                office.broker.result(run)
            except RunFailed as error:
                expect("the cause", repr(error.__cause__), "KeyError('x')")
                expect("run and step", (error.instance_id, error.step_names), (run, ("a",)))
            else:
                raise AssertionError("result() of a failed run raised nothing")
