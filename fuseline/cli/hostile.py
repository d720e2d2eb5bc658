"""Three steps that no pool likes: one hangs, one crashes, one fails at first. And what became of them."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from fuseline.context import current_run
from fuseline.errors import StepCrashed, StepTimedOut
from fuseline.policies import RetryPolicy, StepTimeoutPolicy, WorkflowPolicy
from fuseline.states import State
from fuseline.step import Step
from fuseline.workflow import Workflow

__all__ = ["BadRun", "make_bad_runs"]


class Hang(Step):
    def run_step(self) -> int:
        number: int = pow(7, 10**9)  # one call into C, which heeds no signal and no exception before it is done
        return number


class Crash(Step):
    def run_step(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Flaky(Step):
    def run_step(self) -> str:
        context = current_run()
        attempt = 0 if context is None else context.attempt or 0
        if attempt < 3:
            raise ConnectionError(f"no answer, try {attempt}")
        return f"an answer, try {attempt}"


class FailureLog(WorkflowPolicy):
    """Keeps what each failed attempt raised, in the program that calls ``work()``."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []

    def on_step_failure(self, step: Step, exc: BaseException) -> None:
        self.failures.append(exc)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRun:
    """A workflow of one bad step, and how it has to end."""

    workflow: Workflow
    deed: str  #: what the step does
    expected: State
    errors: tuple[type[BaseException], ...]  #: what its attempts have to fail with, in their order
    log: FailureLog


def make_bad_runs() -> list[BadRun]:
    """Return the three of them."""
    return [
        _bad_run(
            Hang(policies=[StepTimeoutPolicy(1.0)]),
            "hangs in one call into C: pow(7, 10**9), with StepTimeoutPolicy(1.0)",
            State.FAILED,
            StepTimedOut,
        ),
        _bad_run(
            Crash(),
            "dies by a signal: os.kill(os.getpid(), signal.SIGSEGV)",
            State.FAILED,
            StepCrashed,
        ),
        _bad_run(
            Flaky(policies=[RetryPolicy(max_retries=3, wait=0.2, backoff=2)]),
            "fails twice before it succeeds, with RetryPolicy(max_retries=3, ...)",
            State.SUCCEEDED,
            ConnectionError,
            ConnectionError,
        ),
    ]


def _bad_run(step: Step, deed: str, expected: State, *errors: type[BaseException]) -> BadRun:
    log = FailureLog()
    workflow = Workflow(outputs=[step], policies=[log], name=type(step).__name__.lower())
    return BadRun(workflow=workflow, deed=deed, expected=expected, errors=errors, log=log)
