"""Policies around one attempt: who wraps whom, who is heard, and what is left for the report."""

from __future__ import annotations

import threading
from decimal import Decimal
from fractions import Fraction

import pytest

from fuseline import Step, StepTimedOut, Workflow
from fuseline.attempt import build_shared_dict
from fuseline.encoding import encode
from fuseline.messages import FailureDecision, Outcome, Payload
from fuseline.policies import RetryPolicy, StepPolicy, StepTimeoutPolicy
from fuseline.states import State

from .helpers import HANG


class Work(Step):
    def __init__(self, function=lambda: "done", **options):
        super().__init__(**options)
        self.function = function
        self.calls = []

    def run_step(self):
        self.calls.append("run")
        return self.function()


class AsyncWork(Step):
    async def run_step(self):
        return "done"


def raises(error: BaseException):
    def function():
        raise error

    return function


def execute(step: Step, shared=None, **options):
    return Workflow(step, **options)._execute_step(step, {} if shared is None else shared)


class Note(StepPolicy):
    def __init__(self, label, notes):
        self.label, self.notes = label, notes

    def on_start(self, step):
        self.notes.append(f"{self.label} start")

    def execute(self, step, call):
        self.notes.append(f"{self.label} in")
        try:
            return call()
        finally:
            self.notes.append(f"{self.label} out")

    async def execute_async(self, step, call):
        self.notes.append(f"{self.label} in")
        try:
            return await call()
        finally:
            self.notes.append(f"{self.label} out")

    def on_success(self, step, result):
        self.notes.append(f"{self.label} success {result}")

    def on_failure(self, step, exc, attempt):
        self.notes.append(f"{self.label} failure {exc} {attempt}")


class OuterNote(Note):
    pass


WRAPPED = ["outer start", "inner start", "outer in", "inner in", "inner out", "outer out"]


@pytest.mark.parametrize("make", [Work, AsyncWork], ids=["def", "async def"])
def test_policies_wrap_outermost_first_those_of_the_workflow_outside(make):
    notes = []
    step = make(policies=[Note("inner", notes)])
    assert execute(step, policies=[OuterNote("outer", notes)]) == "done"
    assert notes == [*WRAPPED, "outer success done", "inner success done"]


def test_every_policy_hears_of_a_failure_and_none_of_success():
    notes = []
    step = Work(raises(ValueError("no")), policies=[Note("inner", notes)])
    execute(step, policies=[OuterNote("outer", notes)])
    assert notes == [*WRAPPED, "outer failure no 1", "inner failure no 1"]


def test_a_policy_may_replace_the_result_or_call_nothing():
    class Cached(StepPolicy):
        def execute(self, step, call):
            return "cached"

    step = Work(policies=[Cached()])
    assert execute(step) == "cached"
    assert step.calls == []


@pytest.mark.parametrize("hook", ["on_start", "execute", "on_success"])
def test_an_error_in_a_hook_fails_the_attempt(hook):
    def broken(self, step, *args):
        raise ValueError(hook)

    step = Work(policies=[type("Broken", (StepPolicy,), {hook: broken})()])
    assert execute(step) is None
    assert step.state is State.FAILED
    assert str(step.error) == hook


class Decides(StepPolicy):
    def __init__(self, decision):
        self.decision = decision

    def on_failure(self, step, exc, attempt):
        if isinstance(self.decision, Exception):
            raise self.decision
        return self.decision


def payload_after(step: Step) -> Payload:
    payload = Payload(arguments={})
    execute(step, build_shared_dict(payload))
    return payload


def test_the_first_policy_that_decides_is_heard():
    skip, retry = FailureDecision(FailureDecision.SKIP), FailureDecision(FailureDecision.RETRY, 2.0)
    step = Work(raises(ValueError()), policies=[Decides(None), Decides(skip), Decides(retry)])
    end = payload_after(step).note.report
    assert (step.state, end.decision, end.decided_by) == (State.SKIPPED, skip, 1)


def test_without_a_decision_the_step_has_failed():
    step = Work(raises(ValueError()), policies=[Decides(None)])
    end = payload_after(step).note.report
    assert (step.state, end.decision.action, end.decided_by) == (State.FAILED, FailureDecision.FAIL, None)


@pytest.mark.parametrize("raised", [SystemExit(3), GeneratorExit()])
def test_a_decision_that_tries_to_exit_is_logged_and_the_next_policy_decides(raised, caplog):
    class Exits(StepPolicy):
        def on_failure(self, step, exc, attempt):
            raise raised

    retry = FailureDecision(FailureDecision.RETRY, 2.0)
    step = Work(raises(ValueError("own")), policies=[Exits(), Decides(retry)])
    end = payload_after(step).note.report
    assert (step.state, str(step.error), end.decision) == (State.FAILED, "own", retry)
    assert "could not decide" in caplog.text


def test_an_error_in_a_decision_is_logged_and_the_next_policy_decides(caplog):
    retry = FailureDecision(FailureDecision.RETRY, 2.0)
    step = Work(raises(ValueError()), policies=[Decides(KeyError("oops")), Decides(retry)])
    end = payload_after(step).note.report
    assert (step.state, end.decision) == (State.FAILED, retry)
    assert "could not decide" in caplog.text


@pytest.mark.parametrize("verdict", [FailureDecision.RETRY, True, "RETRY", 3.0])
def test_a_verdict_that_is_no_decision_does_not_escape(verdict):
    step = Work(raises(ValueError("own")), policies=[Decides(verdict)])
    assert execute(step) is None
    assert step.state is State.FAILED
    assert str(step.error) == "own"


def test_the_decision_of_a_retry_policy_counts_its_own_failures():
    step = Work(raises(OSError()), policies=[RetryPolicy(max_retries=2, wait=1, backoff=3, retry_on=OSError)])
    workflow = Workflow(step)
    delays = []
    for failures in range(3):
        payload = Payload(arguments={}, attempt=failures + 5, failures={0: failures} if failures else {})
        workflow._execute_step(step, build_shared_dict(payload))
        end = payload.note.report
        delays.append((end.decision.action, end.decision.delay))
    assert delays == [(FailureDecision.RETRY, 1.0), (FailureDecision.RETRY, 3.0), (FailureDecision.FAIL, 0.0)]


def test_the_payload_is_left_with_result_and_outcome():
    payload = Payload(arguments={"value": encode(4)})

    class Double(Step):
        def run_step(self, value):
            return [value * 2]

    result = execute(Double(), build_shared_dict(payload))
    noted, end = payload.note.result, payload.note.report
    assert noted is result
    assert end.outcome is Outcome.RETURNED
    assert end.result == encode([8])


def test_a_timeout_is_noted_as_one():
    step = Work(lambda: threading.Event().wait(HANG), policies=[StepTimeoutPolicy(0.02)])
    end = payload_after(step).note.report
    assert end.outcome is Outcome.TIMED_OUT
    assert isinstance(step.error, StepTimedOut)
    assert (step.error.timeout, step.error.killed, step.error.step_name) == (0.02, False, "Work")


@pytest.mark.parametrize("delay", [2, Decimal("2"), Fraction(2), True + 1])
def test_a_delay_of_any_kind_of_number_becomes_one_that_travels(delay):
    decision = FailureDecision(FailureDecision.RETRY, delay)
    assert type(decision.delay) is float
    assert decision.delay == 2.0
