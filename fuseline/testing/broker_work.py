"""What a broker does for those who work: handing out, news and notices, and workers that leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fuseline.errors import UnknownWorkerError, WorkflowChangedError
from fuseline.messages import FinishNotice, KillNotice, ReportStatus
from fuseline.policies import RetryPolicy
from fuseline.states import State
from fuseline.testing.office import OfficeContract, in_thread, report_of
from fuseline.testing.promise import expect, promise
from fuseline.wakeup import wait_readable

__all__ = ["WorkContract"]


class WorkContract(OfficeContract):
    """The part of the contract about workers."""

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
