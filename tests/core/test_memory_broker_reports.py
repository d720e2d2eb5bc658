"""MemoryBroker: reports of hand-written workers, which say little more than how a step ended."""

from __future__ import annotations

import threading

import pytest

from fuseline import RunFailed
from fuseline.broker import ReportStatus
from fuseline.errors import (
    NotPicklableError,
    WorkflowError,
)
from fuseline.messages import FailureDecision, StepReport
from fuseline.policies import RetryPolicy, StepPolicy
from fuseline.states import State

from .brokers import adding, failing
from .helpers import ACCEPTED, STALE, UNKNOWN, report_of


def test_a_bare_failure_carries_the_error_that_execute_step_left():
    office = failing()
    run = office.dispatch()
    office.work()
    error = office.broker.get_run(run).steps["Broken"].error
    assert isinstance(error, ValueError)
    assert error.args == ("no",)


class DecidesOnce(StepPolicy):
    """Not a policy that a broker could know: what it decides must come with the report."""

    def on_failure(self, step, exc, attempt):
        if attempt == 1:
            return FailureDecision(FailureDecision.RETRY, 5.0)
        return FailureDecision(FailureDecision.SKIP)


def test_a_bare_failure_carries_the_decision_that_execute_step_left():
    office = failing(DecidesOnce())
    run = office.dispatch()
    answer = office.broker.report_step(office.worker, office.execute(office.broker.get_step(office.worker)))
    assert (answer.status, answer.step_state, answer.delay) == (ACCEPTED, State.RETRYING, 5.0)
    assert office.broker.next_due(office.worker) == 5.0
    office.clock.advance(5.0)
    answer = office.broker.report_step(office.worker, office.execute(office.broker.get_step(office.worker)))
    assert (answer.step_state, answer.run_state) == (State.SKIPPED, State.SUCCEEDED)
    assert office.broker.result(run) is None


def test_bare_failures_use_up_the_budget_of_the_policy_that_decided():
    office = failing(RetryPolicy(1, retry_on=OSError), RetryPolicy(2))
    run = office.dispatch()
    office.work()
    assert office.broker.get_run(run).steps["Broken"].attempts == 3


def test_a_bare_failure_without_execute_step_is_decided_by_the_schema():
    office = failing(RetryPolicy(1, wait=3.0))
    office.dispatch()
    bare = report_of(office.broker.get_step(office.worker), State.FAILED, token=None)
    assert office.broker.report_step(office.worker, bare).delay == 3.0


def test_a_result_that_cannot_be_pickled_makes_the_report_a_failure():
    office = adding()
    run = office.dispatch(a=1)
    assignment = office.broker.get_step(office.worker)
    answer = office.broker.report_step(office.worker, report_of(assignment, State.SUCCEEDED, result=threading.Lock()))
    assert (answer.status, answer.step_state, answer.run_state) == (ACCEPTED, State.FAILED, State.FAILED)
    with pytest.raises(RunFailed, match="the result of step 'Add'") as caught:
        office.broker.result(run)
    assert isinstance(caught.value.__cause__, NotPicklableError)


def test_a_result_other_than_what_execute_step_returned_counts_as_reported():
    office = adding()
    run = office.dispatch(a=1)
    assignment = office.broker.get_step(office.worker)
    office.execute(assignment)
    office.broker.report_step(office.worker, report_of(assignment, State.SUCCEEDED, result=100, token=None))
    office.work()
    assert office.broker.result(run) == [200, 100]


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING, State.RETRYING, "DONE", None])
def test_a_state_that_no_assignment_ends_with_is_refused_and_changes_nothing(state):
    office = adding()
    run = office.dispatch(a=1)
    assignment = office.broker.get_step(office.worker)
    with pytest.raises(WorkflowError, match="'Add' cannot be reported as"):
        office.broker.report_step(office.worker, report_of(assignment, state))
    assert office.broker.get_run(run).steps["Add"].state is State.RUNNING


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "SKIPPED"])
def test_a_state_given_as_text_means_the_state_of_that_name(state):
    office = adding()
    run = office.dispatch(a=1)
    assignment = office.broker.get_step(office.worker)
    office.broker.report_step(office.worker, report_of(assignment, state, result=1))
    assert office.broker.get_run(run).steps["Add"].state is State(state)


def test_a_second_bare_report_is_stale_and_one_about_nothing_unknown():
    office = adding()
    run = office.dispatch(a=1)
    report = office.execute(office.broker.get_step(office.worker))
    assert office.broker.report_step(office.worker, report).status is ACCEPTED
    assert office.broker.report_step(office.worker, report).status is STALE
    unknown = StepReport(workflow_id="adding", instance_id=run, step_name="Double", state=State.SUCCEEDED)
    assert office.broker.report_step(office.worker, unknown).status is UNKNOWN
    assert ReportStatus.STALE is STALE
