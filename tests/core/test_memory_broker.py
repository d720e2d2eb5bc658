"""MemoryBroker: dispatching, working, asking, ending."""

from __future__ import annotations

import threading

import pytest

from fuseline import RunFailed
from fuseline.errors import (
    NotPicklableError,
    RunCancelled,
    RunNotFinished,
    UnboundParameterError,
    UnknownInputError,
    UnknownRunError,
    UnknownWorkerError,
    WorkflowError,
)
from fuseline.messages import StepReport
from fuseline.policies import RetryPolicy
from fuseline.states import State

from .brokers import adding, failing
from .helpers import dag, report_of

# -- from dispatch to result ------------------------------------------------------------------------------------------


def test_a_run_goes_from_dispatch_to_result():
    office = adding()
    run = office.dispatch(a=1)
    office.work()
    assert office.broker.result(run) == [22, 11]


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({}, UnboundParameterError),
        ({"a": 1, "c": 2}, UnknownInputError),
        ([("a", 1)], WorkflowError),
        ({1: 2}, WorkflowError),
        ("a", WorkflowError),
    ],
)
def test_inputs_that_do_not_fit_are_refused_at_dispatch(inputs, error):
    office = adding()
    with pytest.raises(error):
        office.broker.dispatch_workflow(office.schema, inputs)
    assert office.broker.list_runs() == []


def test_an_input_that_cannot_be_pickled_is_refused_and_named():
    office = adding()
    with pytest.raises(NotPicklableError, match="the input 'a'"):
        office.dispatch(a=threading.Lock())


class LoadsNever:
    def __reduce__(self):
        return int, ("no number",)


def test_an_input_that_cannot_be_loaded_again_is_refused_and_named():
    office = adding()
    with pytest.raises(NotPicklableError, match="the input 'a'"):
        office.dispatch(a=LoadsNever())
    assert office.broker.list_runs() == []


def test_a_failed_run_raises_run_failed_with_the_exception_of_the_step():
    office = failing()
    run = office.dispatch()
    office.work()
    with pytest.raises(RunFailed, match="failed in step 'Broken': ValueError: no") as caught:
        office.broker.result(run)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "in run_step" in str(caught.value.__cause__.__cause__)
    assert caught.value.instance_id == run


def test_a_run_that_failed_without_a_reason_says_so():
    office = failing()
    run = office.dispatch()
    assignment = office.broker.get_step(office.worker)
    office.broker.report_step(office.worker, report_of(assignment, State.FAILED))
    with pytest.raises(RunFailed, match="its worker gave no reason") as caught:
        office.broker.result(run)
    assert caught.value.__cause__ is None


def test_a_result_asked_for_too_early_is_refused_with_the_state():
    office = adding()
    run = office.dispatch(a=1)
    with pytest.raises(RunNotFinished, match="is PENDING"):
        office.broker.result(run)
    office.broker.get_step(office.worker)
    with pytest.raises(RunNotFinished, match="is RUNNING"):
        office.broker.result(run)


def test_an_output_that_was_skipped_is_none():
    office = adding()
    run = office.dispatch(a=1)
    office.broker.report_step(office.worker, report_of(office.broker.get_step(office.worker), State.SKIPPED))
    assert office.broker.result(run) == [None, None]


def test_unknown_ids_are_refused():
    office = adding()
    broker, good = office.broker, StepReport(workflow_id="x", instance_id="x", step_name="x", state=State.SUCCEEDED)
    for call in (broker.result, broker.get_run, broker.cancel, broker.forget, broker.events):
        with pytest.raises(UnknownRunError, match="'ghost'"):
            call("ghost")
        with pytest.raises(UnknownRunError) as caught:
            call("x" * 10_000)
        assert len(str(caught.value)) < 200
    for call in (
        broker.get_step,
        lambda worker: broker.get_steps(worker, 1),
        lambda worker: broker.report_step(worker, good),
        broker.keep_alive,
        broker.unsettled,
        broker.news,
        broker.unregister_worker,
    ):
        with pytest.raises(UnknownWorkerError, match="'ghost'"):
            call("ghost")


# -- asking -----------------------------------------------------------------------------------------------------------


def test_get_run_tells_states_attempts_inputs_and_times():
    office = adding(policies=[RetryPolicy(1, wait=2.0)])
    run = office.dispatch(a=1, b=[2])
    created = office.broker.get_run(run)
    assert (created.instance_id, created.workflow_id, created.workflow) == (run, "adding", "adding")
    assert (created.state, created.inputs) == (State.PENDING, {"a": 1, "b": [2]})
    assert (created.started_at, created.finished_at) == (None, None)
    office.clock.advance(3.0)
    office.work()
    waiting = office.broker.get_run(run)
    assert (waiting.state, waiting.started_at) == (State.RUNNING, created.created_at + 3.0)
    add = waiting.steps["Add"]
    assert (add.state, add.attempts, type(add.error)) == (State.RETRYING, 1, TypeError)
    office.clock.advance(2.0)
    office.work()
    failed = office.broker.get_run(run)
    assert (failed.state, failed.finished_at) == (State.FAILED, created.created_at + 5.0)
    assert failed.steps["Double"].cause == "step 'Add' failed"
    assert failed.steps["Add"].started_at == failed.steps["Add"].finished_at == created.created_at + 5.0


def test_what_get_run_returns_is_a_picture_of_the_moment():
    office = adding()
    run = office.dispatch(a=1)
    before = office.broker.get_run(run)
    office.work()
    assert before.state is State.PENDING
    assert before.steps["Add"].state is State.READY


def test_list_runs_filters_by_workflow_and_state_oldest_first():
    office = adding()
    other = dag("x", name="other")
    first, second = office.dispatch(a=1), office.dispatch(a=2)
    third = office.broker.dispatch_workflow(other)
    office.broker.cancel(first)

    def ids(**filters):
        return [info.instance_id for info in office.broker.list_runs(**filters)]

    assert ids() == [first, second, third]
    assert ids(workflow_id="adding") == [first, second]
    assert ids(state=State.PENDING) == [second, third]
    assert ids(workflow_id="adding", state=State.CANCELLED) == [first]
    assert ids(workflow_id="ghost") == []


def test_unsettled_counts_waiting_retries_too():
    office = failing(RetryPolicy(1, wait=5))
    office.dispatch()
    office.work()
    assert office.broker.unsettled(office.worker) == 1
    office.clock.advance(5)
    office.work()
    assert office.broker.unsettled(office.worker) == 0
    assert office.broker.next_due(office.worker) is None


def test_next_due_counts_down_and_never_below_0():
    office = failing(RetryPolicy(1, wait=5))
    office.dispatch()
    assert office.broker.next_due(office.worker) is None
    office.work()
    assert office.broker.next_due(office.worker) == 5.0
    office.clock.advance(4.0)
    assert office.broker.next_due(office.worker) == 1.0
    office.clock.advance(4.0)
    assert office.broker.next_due(office.worker) == 0.0


# -- ending -----------------------------------------------------------------------------------------------------------


def test_a_cancelled_run_has_no_result():
    office = adding()
    run = office.dispatch(a=1)
    office.broker.cancel(run)
    with pytest.raises(RunCancelled, match="was cancelled"):
        office.broker.result(run)
