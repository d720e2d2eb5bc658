"""Steps and policies of all kinds, for every executor; importable by children, which then load nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fuseline import Step, Workflow, current_run
from fuseline.policies import FailureDecision, StepPolicy, WorkflowPolicy
from fuseline.states import State


class Log(StepPolicy):
    """Writes each hook call as a line of a file, which works from any process."""

    def __init__(self, path: str) -> None:
        self.path = path

    def note(self, hook: str, step: Step, *rest: Any) -> None:
        run = current_run()
        with open(self.path, "a") as file:
            file.write(json.dumps([step.name, hook, run.attempt if run else None, *map(repr, rest)]) + "\n")

    def execute(self, step: Step, call: Callable[[], Any]) -> Any:
        self.note("execute", step)
        return call()

    async def execute_async(self, step: Step, call: Callable[[], Any]) -> Any:
        self.note("execute_async", step)
        return await call()

    def on_start(self, step: Step) -> None:
        self.note("on_start", step)

    def on_success(self, step: Step, result: Any) -> None:
        self.note("on_success", step, result)

    def on_failure(self, step: Step, exc: BaseException, attempt: int) -> None:
        self.note("on_failure", step, exc, attempt)


class Watch(WorkflowPolicy):
    """Keeps each hook call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def note(self, hook: str, *rest: Any) -> None:
        run = current_run()
        assert run is not None
        self.calls.append(repr([hook, run.step_name, run.attempt, *map(repr, rest)]))

    def on_workflow_start(self, workflow: Workflow) -> None:
        self.note("run started")

    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        self.note("run finished", state)

    def on_step_start(self, step: Step) -> None:
        self.note("started", step.state)

    def on_step_success(self, step: Step, result: Any) -> None:
        self.note("succeeded", step.state, result)

    def on_step_failure(self, step: Step, exc: BaseException) -> None:
        self.note("failed", step.state, exc)

    def on_step_retry(self, step: Step, exc: BaseException, delay: float) -> None:
        self.note("retried", step.state, exc, delay)


class SkipIt(StepPolicy):
    def on_failure(self, step: Step, exc: BaseException, attempt: int) -> FailureDecision:
        return FailureDecision(FailureDecision.SKIP)


class Source(Step):
    def run_step(self, n: int) -> list[int]:
        return list(range(n))


class FailsTwice(Step):
    def run_step(self, items: list[int]) -> int:
        run = current_run()
        assert run is not None
        assert run.attempt is not None
        if run.attempt < 3:
            raise ConnectionError(f"attempt {run.attempt}")
        return sum(items)


class Sleepy(Step):
    async def run_step(self, items: list[int], factor: int = 10) -> int:
        return len(items) * factor


class Optional(Step):
    def run_step(self, items: list[int]) -> None:
        raise LookupError("not there")


class AfterOptional(Step):
    def run_step(self, extra: Any) -> Any:
        return extra


class Nothing(Step):
    def run_step(self) -> None:
        return None


class Join(Step):
    def run_step(self, total: int, count: int, nothing: None, title: str = "sum") -> dict[str, Any]:
        return {"total": total, "count": count, "nothing": nothing, "title": title}


class Broken(Step):
    def run_step(self, n: int) -> None:
        raise ZeroDivisionError(n)
