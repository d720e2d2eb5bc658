"""Tells the observers of a workflow what happens to its runs: the same calls for an engine and a hand-written worker.

A broker answers each report, and says with assignments and answers which event they are: so each hook is called exactly
once per event, by whoever works on the step. Only who is killed takes along what it has not told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fuseline.context import RunContext, entered
from fuseline.encoding import decode
from fuseline.messages import ReportAnswer
from fuseline.policies.base import WorkflowPolicy, overrides
from fuseline.states import State
from fuseline.step import Step
from fuseline.values import Value

if TYPE_CHECKING:
    from fuseline.workflow import Workflow

__all__ = ["Observers"]

_log = logging.getLogger("fuseline")


class Observers:
    """Those of one workflow, as they are now."""

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow
        #: {name of a hook: those to call, and whose they are}
        self._calls: dict[str, list[tuple[str, Callable[..., None]]]] = {hook: [] for hook in WorkflowPolicy._hooks}
        self.heed_starts = False  #: whether anybody wants to know of starts
        self._heed_ends = False  #: whether anybody wants to know of anything else
        for observer in workflow.observers:
            self.add(observer)

    def add(self, observer: WorkflowPolicy) -> None:
        """Tell one more, who is none of the workflow's own."""
        for hook, calls in self._calls.items():
            if overrides(observer, hook):
                calls.append((type(observer).__name__, getattr(observer, hook)))
                self.heed_starts |= hook in ("on_workflow_start", "on_step_start")
                self._heed_ends |= hook not in ("on_workflow_start", "on_step_start")

    def heed_end(self, answer: ReportAnswer, error: BaseException | None) -> bool:
        """Return whether anybody wants to know of an end like this."""
        if not self._heed_ends:
            return False
        calls = self._calls
        return bool(
            (error is None and calls["on_step_success"])
            or (error is not None and (calls["on_step_failure"] or calls["on_step_retry"]))
            or (answer.run_state is not None and calls["on_workflow_finished"])
        )

    def step_started(self, context: RunContext, step: Step, *, starts_run: bool) -> None:
        """Tell that a step begins; ``starts_run`` if nobody knows yet that its run does."""
        if starts_run:
            self._tell("on_workflow_start", _whole_run(context), self._workflow)
        self._tell("on_step_start", context, step)

    def step_ended(
        self, context: RunContext, step: Step, answer: ReportAnswer, error: BaseException | None, result: Value | None
    ) -> None:
        """Tell how an attempt ended and what the broker made of it.

        Args:
            answer: to the report, which was accepted.
            error: if the attempt failed.
            result: if it did not.
        """
        if answer.step_state is State.SUCCEEDED and self._calls["on_step_success"]:
            try:
                loaded = None if result is None else decode(result)
            except Exception:
                _log.exception("the result of step %r cannot be loaded here for on_step_success", step.name)
            else:
                self._tell("on_step_success", context, step, loaded)
        if error is not None:
            self._tell("on_step_failure", context, step, error)
            if answer.step_state is State.RETRYING:
                self._tell("on_step_retry", context, step, error, answer.delay)
        if answer.run_state is not None:
            self.run_finished(context, answer.run_state)

    def run_finished(self, context: RunContext, state: State) -> None:
        """Tell that a run ended."""
        self._tell("on_workflow_finished", _whole_run(context), self._workflow, state)

    def _tell(self, hook: str, context: RunContext, *args: Any) -> None:
        """Call a hook of every observer; an error in one is logged and goes no further."""
        for owner, call in self._calls[hook]:
            before = entered.set(context)
            try:
                call(*args)
            except Exception:
                _log.exception("%s.%s failed in run %s", owner, hook, context.instance_id)
            finally:
                entered.reset(before)


def _whole_run(context: RunContext) -> RunContext:
    return RunContext(workflow_id=context.workflow_id, instance_id=context.instance_id)
