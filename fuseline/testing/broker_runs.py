"""What a broker does for those who dispatch and ask: runs, their results and events, and their end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from fuseline.broker.base import RunEvent
from fuseline.errors import (
    NotPicklableError,
    RunCancelled,
    RunNotFinished,
    UnboundParameterError,
    UnknownInputError,
    UnknownRunError,
    WorkflowError,
)
from fuseline.messages import ReportStatus
from fuseline.policies import RetryPolicy
from fuseline.states import State
from fuseline.testing.office import Office, OfficeContract, in_thread, moves_of
from fuseline.testing.promise import expect, promise

__all__ = ["RunsContract"]

#: The moves of a run of ``a>b`` after its dispatch.
_MOVES = ["a RUNNING", "a SUCCEEDED", "b READY", "b RUNNING", "b SUCCEEDED", "run RUNNING", "run SUCCEEDED"]


def expect_error(what: str, kind: type[Exception], call: Callable[[], object]) -> None:
    """Check that a call raises an exception of a class."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{what} raised no {kind.__name__}")


class RunsContract(OfficeContract):
    """The part of the contract about runs."""

    # -- dispatching --------------------------------------------------------------------------------------------------

    @promise("a run goes from dispatch_workflow() to result(), and its inputs reach the steps that take them")
    def test_a_run_goes_from_dispatch_to_result(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b", inputs="x")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema, {"x": [1]})
            assert isinstance(run, str), f"dispatch_workflow() returned {run!r}"
            expect("what the first step takes", set(office.take(worker).payload.arguments), {"x"})
            office.leave(worker)
            expect("the inputs", office.broker.get_run(run).inputs, {"x": [1]})
            office.finish(office.worker(schema))
            expect("the result", office.broker.result(run), "b")

    @promise("runs and workers have ids of their own, which can be printed")
    def test_ids_are_unique(self) -> None:
        with self.office() as office:
            schema = office.schema("a")
            ids = office.broker.dispatch_many(schema, [None] * 20) + [office.worker(schema) for _ in range(5)]
            expect("the number of ids", len(set(ids)), 25)
            expect("those that cannot be printed", [each for each in ids if not each.isprintable()], [])

    @promise("inputs are taken as they are at dispatch")
    def test_inputs_are_taken_as_they_are_at_dispatch(self) -> None:
        with self.office() as office:
            schema, given = office.schema("a", inputs="x"), [1]
            run = office.broker.dispatch_workflow(schema, {"x": given})
            given.append(2)
            expect("the input", office.broker.get_run(run).inputs["x"], [1])

    @promise("inputs that do not fit are refused at dispatch, with the error that says why, and no run is made")
    def test_inputs_that_do_not_fit_are_refused(self) -> None:
        with self.office() as office:
            schema = office.schema("a", inputs="x")
            bad: list[tuple[Any, type[Exception]]] = [
                ({}, UnboundParameterError),
                ({"x": 1, "zz": 2}, UnknownInputError),
                ([("x", 1)], WorkflowError),
                ({"x": threading.Lock()}, NotPicklableError),
            ]
            for inputs, error in bad:
                self._refuses(office, inputs, error, schema)
            self._refuses(office, {"x": 1}, WorkflowError, "no schema")
            expect("the runs", office.broker.list_runs(workflow_id=schema.workflow_id), [])

    @staticmethod
    def _refuses(office: Office, inputs: Mapping[str, Any], error: type[Exception], schema: Any) -> None:
        expect_error(
            f"dispatch_workflow(…, {inputs!r})", error, lambda: office.broker.dispatch_workflow(schema, inputs)
        )

    @promise("dispatch_many() returns the ids in the order of the inputs; after an error, the runs before it stay")
    def test_dispatch_many_keeps_the_order(self) -> None:
        with self.office() as office:
            broker, schema = office.broker, office.schema("a", inputs="x")
            runs = broker.dispatch_many(schema, ({"x": i} for i in range(5)))
            expect("the inputs, by id", [broker.get_run(run).inputs["x"] for run in runs], list(range(5)))
            bad = [{"x": 5}, {"zz": 6}, {"x": 7}]
            expect_error("dispatch_many() with a bad input", WorkflowError, lambda: broker.dispatch_many(schema, bad))
            inputs = [info.inputs["x"] for info in broker.list_runs(workflow_id=schema.workflow_id)]
            expect("the inputs of all runs", inputs, list(range(6)))

    # -- asking -------------------------------------------------------------------------------------------------------

    @promise("get_run() tells how run and steps stand: states, attempts, errors, causes, and times in order")
    def test_get_run_tells_how_it_stands(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b", policies={"a": [RetryPolicy(1)]})
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            new = office.broker.get_run(run)
            expect("what it is", (new.instance_id, new.workflow_id, new.workflow), (run, *_names(schema)))
            expect("state, start and end", (new.state, new.started_at, new.finished_at), (State.PENDING, None, None))
            for _ in range(2):
                office.report(worker, office.take(worker), State.FAILED, error=KeyError("x"))
            info = office.broker.get_run(run)
            a, b = info.steps["a"], info.steps["b"]
            expect("the states", (info.state, a.state, b.state), (State.FAILED, State.FAILED, State.CANCELLED))
            expect("attempts and error", (a.attempts, repr(a.error)), (2, "KeyError('x')"))
            expect("the cause", b.cause, "step 'a' failed")
            times = [info.created_at, info.started_at, a.started_at, a.finished_at, info.finished_at]
            assert None not in times, f"some of these times are missing: {times}"
            expect("dispatch, start and end of run and step", times, sorted(time for time in times if time is not None))
            expect("the state in what was asked before", new.state, State.PENDING)

    @promise("list_runs() returns the runs oldest first, and only those of a workflow, or in a state, if one is named")
    def test_list_runs_filters(self) -> None:
        with self.office() as office:
            broker, schema, other = office.broker, office.schema("a"), office.schema("a", name="other")
            first, second, third = (broker.dispatch_workflow(each) for each in (schema, schema, other))
            broker.cancel(first)
            mine = {first, second, third}

            def ids(**filters: Any) -> list[str]:
                return [info.instance_id for info in broker.list_runs(**filters) if info.instance_id in mine]

            expect("all runs", ids(), [first, second, third])
            expect("those of a workflow", ids(workflow_id=schema.workflow_id), [first, second])
            expect("those in a state", ids(state=State.PENDING), [second, third])
            both = ids(workflow_id=schema.workflow_id, state=State.CANCELLED)
            expect("those of a workflow in a state", both, [first])

    @promise("result() of several outputs is a list in the order of the outputs; None is a value like any other")
    def test_several_outputs_are_a_list(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b a>c", outputs="c a b")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            while (assignment := office.broker.get_step(worker)) is not None:
                office.succeed(worker, assignment, {"a": None, "b": 2, "c": 3}[assignment.step_name])
            expect("the results", office.broker.result(run), [3, None, 2])

    @promise("result() of a run that has not ended raises RunNotFinished, at once or when its time is up")
    def test_a_result_is_not_there_before_its_time(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            for timeout in (0.0,) if self.clock is not None else (0.0, 0.02):
                expect_error("result()", RunNotFinished, lambda t=timeout: office.broker.result(run, t))  # type: ignore[misc]
            office.succeed(worker, office.take(worker))
            expect_error("result() when half is done", RunNotFinished, lambda: office.broker.result(run))

    @promise("result() waits for the end of the run, up to its timeout")
    def test_result_waits_for_the_end(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            with in_thread(lambda: office.broker.result(run, timeout=office.patience)) as waiting:
                office.finish(worker)
                expect("the result", waiting.result(office.patience), "b")

    @promise("whoever asks for a run that is not there gets UnknownRunError")
    def test_unknown_runs_are_refused(self) -> None:
        with self.office() as office:
            broker = office.broker
            for call in (broker.get_run, broker.result, broker.cancel, broker.forget, broker.events):
                expect_error(f"{call.__name__}()", UnknownRunError, lambda c=call: c("ghost"))  # type: ignore[misc]

    # -- events -------------------------------------------------------------------------------------------------------

    @promise("events() of a run tells its moves from then on, each once, of no other run, and ends with it")
    def test_the_events_of_a_run(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            with office.broker.events(run) as stream:
                office.broker.dispatch_workflow(schema)
                office.finish(worker)
                events = list(stream)
            expect("the runs", {event.instance_id for event in events}, {run})
            expect("the moves", moves_of(events), _MOVES)
            expect("the last one", (events[-1].step_name, events[-1].state), (None, State.SUCCEEDED))
            running = {event.attempt for event in events if event.step_name and event.state is State.RUNNING}
            expect("the attempts", running, {1})
            with office.broker.events(run) as stream:
                expect("the events of a run that has ended", list(stream), [])

    @promise("events() without a run tells the moves of all runs from then on")
    def test_the_events_of_all_runs(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            early = office.broker.dispatch_workflow(schema)
            with office.broker.events() as stream:
                runs = [early, office.broker.dispatch_workflow(schema)]
                office.finish(worker)
                events: list[RunEvent] = []
                while sum(event.step_name is None and event.state.is_settled for event in events) < len(runs):
                    event = stream.next_event(office.patience)
                    assert event is not None, f"the stream said nothing more after {moves_of(events)}"
                    events += [event] if event.instance_id in runs else []
            expect("the moves of the first", moves_of([e for e in events if e.instance_id == early]), _MOVES)
            expected = sorted(["a READY", *_MOVES])
            expect("the moves of the second", moves_of([e for e in events if e.instance_id != early]), expected)

    @promise("next_event() returns None when its time is up, and close() ends an iteration in another thread")
    def test_a_stream_can_be_closed(self) -> None:
        with self.office() as office:
            run = office.broker.dispatch_workflow(office.schema("a"))
            stream = office.broker.events(run)
            try:
                expect("the event of nothing", stream.next_event(0.0), None)
                with in_thread(lambda: list(stream)) as following:
                    stream.close()
                    expect("what the iteration gave", following.result(office.patience), [])
            finally:
                stream.close()

    # -- ending -------------------------------------------------------------------------------------------------------

    @promise("cancel() says whether there was anything to stop; nothing new starts, and the run has no result")
    def test_a_cancelled_run_starts_nothing(self) -> None:
        with self.office() as office:
            schema = office.schema("a>b")
            worker = office.worker(schema)
            run = office.broker.dispatch_workflow(schema)
            assignment = office.take(worker)
            expect("the first cancel()", office.broker.cancel(run), True)
            expect("the second", office.broker.cancel(run), False)
            expect("the report of what ran", office.succeed(worker, assignment).status, ReportStatus.ACCEPTED)
            expect("what is given after that", office.broker.get_step(worker), None)
            expect("the state", office.broker.get_run(run).state, State.CANCELLED)
            expect_error("result()", RunCancelled, lambda: office.broker.result(run))
            expect("cancel() after the end", office.broker.cancel(run), False)

    @promise("forget() drops a run that has ended, with its result, and refuses one that has not")
    def test_a_run_is_forgotten_after_its_end(self) -> None:
        with self.office() as office:
            broker, schema = office.broker, office.schema("a")
            worker = office.worker(schema)
            run = broker.dispatch_workflow(schema)
            expect_error("forget() of a run that has not ended", RunNotFinished, lambda: broker.forget(run))
            office.finish(worker)
            expect("the result after the refusal", broker.result(run), "a")
            broker.forget(run)
            expect_error("get_run() of a run that is forgotten", UnknownRunError, lambda: broker.get_run(run))
            expect("the runs", broker.list_runs(workflow_id=schema.workflow_id), [])


def _names(schema: Any) -> tuple[str, str]:
    return schema.workflow_id, schema.name
