"""What a broker does for those who work: handing out, hearing reports, retries, notices, and workers that leave."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fuseline.encoding import encode_error
from fuseline.errors import NotPicklableError, RunFailed, UnknownWorkerError, WorkflowChangedError, WorkflowError
from fuseline.messages import FailureDecision, FinishNotice, KillNotice, ReportAnswer, ReportStatus, StepAssignment
from fuseline.policies import RetryPolicy
from fuseline.states import State
from fuseline.testing.office import Office, OfficeContract, in_thread, report_of
from fuseline.testing.promise import expect, promise
from fuseline.values import Value
from fuseline.wakeup import wait_readable

__all__ = ["WorkContract"]

#: Not what any pickler makes: whoever loads it fails.
_OPAQUE = Value(data=b"\x00 bytes that nobody may look into \xff")
#: Seconds that a retry waits: with a clock that a test moves, and with one that runs.
_WAIT, _SHORT_WAIT = 8.0, 0.05


class WorkContract(OfficeContract):
    """The half of the contract about workers."""

    # -- handing out --------------------------------------------------------------------------------------------------

    @promise("a step is handed out when all before it have succeeded, with their results, and only once")
    def test_a_step_follows_its_predecessors_and_is_handed_out_once(self) -> None:
        with self.office() as office:
            schema = office.schema("a>c b>c")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            first = list(office.broker.get_steps(worker, 5))
            expect("the first steps", sorted(each.step_name for each in first), ["a", "b"])
            office.succeed(worker, first[0], first[0].step_name)
            expect("what is given while one of two is missing", list(office.broker.get_steps(worker, 5)), [])
            office.succeed(worker, first[1], first[1].step_name)
            last = office.take(worker)
            expect("run and step", (last.instance_id, last.step_name, last.attempt), (run, "c", 1))
            parts = last.payload.arguments["parts"]
            expect("how many results it gets", len(parts) if isinstance(parts, tuple) else parts, 2)
            expect("what is given after that", office.broker.get_step(worker), None)

    @promise("get_steps() returns as many steps as are asked for at most")
    def test_get_steps_keeps_to_its_limit(self) -> None:
        with self.office() as office:
            schema = office.schema("a b c d")
            worker = office.worker(schema)
            office.broker.dispatch_workflow(schema)
            sizes = [len(office.broker.get_steps(worker, limit)) for limit in (3, 3, 3)]
            expect("the numbers of steps, of 4 that are ready", sizes, [3, 1, 0])

    @promise("older runs go first, so that runs finish one after the other")
    def test_older_runs_go_first(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            runs = office.broker.dispatch_many(schema, [None] * 3)
            expected = [(run, step) for run in runs for step in "ab"]
            expect("runs and steps in order", office.finish(worker), expected)

    @promise("older runs go first, over all workflows that a worker serves")
    def test_older_runs_go_first_over_several_workflows(self) -> None:
        with self.office() as office:
            schemas = [office.schema("a>b", name=name) for name in ("one", "two")]
            runs = [office.broker.dispatch_workflow(schemas[number]) for number in (1, 0, 1)]
            worker = office.worker(*schemas)
            expected = [(run, step) for run in runs for step in "ab"]
            expect("runs and steps in order", office.finish(worker), expected)

    @promise("within a run, what became ready last goes first, so that it goes to its depth before it goes wide")
    def test_a_run_goes_depth_first(self) -> None:
        with self.office() as office:
            schema = office.schema("a>a2>a3 b>b2>b3")
            worker = office.worker(schema)
            office.broker.dispatch_workflow(schema)
            order = "".join(step for _, step in office.finish(worker))
            assert order in ("aa2a3bb2b3", "bb2b3aa2a3"), f"the steps came as {order}"

    @promise("a worker is given steps of the workflows and versions it has registered, and of no other")
    def test_a_worker_gets_what_it_has_registered_for(self) -> None:
        with self.office() as office:
            schemas = [office.schema("a", version="1"), office.schema("a", version="2"), office.schema("x", name="z")]
            workers = [office.worker(schema) for schema in schemas]
            runs = [office.broker.dispatch_workflow(schema) for schema in schemas]
            for worker, run in reversed(list(zip(workers, runs, strict=True))):
                expect("what the worker was given", [each for each, _ in office.finish(worker)], [run])

    @promise("no assignment is given to two workers, however many ask at a time")
    def test_no_assignment_is_given_twice(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            runs = office.broker.dispatch_many(schema, [None] * 40)
            workers = [office.worker(schema) for _ in range(4)]
            with ThreadPoolExecutor(len(workers)) as pool:
                done = [each for part in pool.map(office.finish, workers) for each in part]
            twice = [each for each, number in Counter(done).items() if number > 1]
            expect("what was handed out twice", twice, [])
            expect("how much was handed out", len(done), 2 * len(runs))

    @promise("get_step() waits for a step, and wakes when there is one")
    def test_get_step_wakes_when_a_run_is_dispatched(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker, other = office.worker(schema), office.worker(schema)
            with in_thread(lambda: office.broker.get_step(worker, timeout=office.patience)) as waiting:
                run = office.broker.dispatch_workflow(schema)
                first = waiting.result(office.patience)
                assert first is not None, "get_step() gave nothing, though a run was dispatched while it waited"
                expect("the run", first.instance_id, run)
            with in_thread(lambda: office.broker.get_step(other, timeout=office.patience)) as waiting:
                office.succeed(worker, first)
                second = waiting.result(office.patience)
                assert second is not None, "get_step() gave nothing, though a report made a step ready while it waited"
                expect("the step", second.step_name, "b")

    @promise("get_step() returns None when its time is up")
    def test_get_step_gives_up(self) -> None:
        with self.office() as office:
            worker = office.worker(office.schema())
            timeout = 0.0 if self.clock is not None else 0.02
            expect("what get_step() returns", office.broker.get_step(worker, timeout=timeout), None)

    @promise("register_worker() refuses a workflow that differs from the one in use by the same id")
    def test_a_changed_workflow_is_refused(self) -> None:
        with self.office() as office:
            office.worker(office.schema("a>b"))
            for call in (office.worker, office.broker.dispatch_workflow):
                try:
                    call(office.schema("a>b>c"))
                except WorkflowChangedError:
                    continue
                raise AssertionError(f"{call.__name__}() took it")

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
            again = office.broker.get_step(worker, timeout=office.patience)
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

    # -- workers that leave, and what they are told -------------------------------------------------------------------

    @promise("what a worker held when it left goes to another, and uses up no retry")
    def test_what_a_worker_held_goes_to_another(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            first, second = office.worker(schema), office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            lost = office.take(first)
            expect("what another is given meanwhile", office.broker.get_step(second), None)
            office.leave(first)
            again = office.broker.get_step(second, timeout=office.patience)
            assert again is not None, "it was given to nobody"
            expect("its attempt, and the failures counted", (again.attempt, again.payload.failures), (2, {}))
            expect("the answer to a late report", office.succeed(second, lost).status, ReportStatus.STALE)
            office.succeed(second, again, "done")
            expect("the result", office.broker.result(run), "done")

    @promise("whoever says that a worker is there which is not gets UnknownWorkerError")
    def test_unknown_workers_are_refused(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            worker = office.worker(schema)
            office.broker.dispatch_workflow(schema)
            assignment = office.take(worker)
            office.leave(worker)
            broker, report = office.broker, report_of(assignment, State.SUCCEEDED)
            calls: dict[str, Callable[[], object]] = {
                "get_step": lambda: broker.get_step(worker),
                "get_steps": lambda: broker.get_steps(worker, 1),
                "report_step": lambda: broker.report_step(worker, report),
                "keep_alive": lambda: broker.keep_alive(worker),
                "unsettled": lambda: broker.unsettled(worker),
                "unregister_worker": lambda: broker.unregister_worker(worker),
            }
            for name, call in calls.items():
                try:
                    call()
                except UnknownWorkerError:
                    continue
                raise AssertionError(f"{name}() took the id of a worker that has left")

    @promise("a worker whose assignment nobody wants any more is told once, by keep_alive(), to kill it")
    def test_a_cancellation_is_told_once(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            assignment = office.take(worker)
            expect("the notices before", list(office.broker.keep_alive(worker)), [])
            office.broker.cancel(run)
            expect("the notices", office.notices(worker, 1), [KillNotice(assignment.token)])
            expect("the notices after that", list(office.broker.keep_alive(worker)), [])
            expect("the run", office.report(worker, assignment, State.CANCELLED).run_state, State.CANCELLED)

    @promise("the worker that has started a run is told of its end, if no report of its own has told it")
    def test_an_end_without_a_report_is_told(self) -> None:
        with self.office() as office:
            schema = office.schema("a", policies={"a": [RetryPolicy(1, wait=3600.0)]})
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            office.report(worker, office.take(worker), State.FAILED)
            office.broker.cancel(run)
            notice = FinishNotice(workflow_id=schema.workflow_id, instance_id=run, state=State.CANCELLED)
            expect("the notices", office.notices(worker, 1), [notice])

    @promise("news() becomes readable when there is a step for a worker that found none")
    def test_news_become_readable_when_there_is_a_step(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            worker = office.worker(schema)
            news = office.broker.news(worker)
            expect("what is given before", list(office.broker.trade(worker, [], 1).assignments), [])
            news.clear()
            office.broker.dispatch_workflow(schema)
            assert wait_readable([news.fileno()], office.patience), "it was not, though a run was dispatched"

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
