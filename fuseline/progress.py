"""Progress: one line on standard error that says how far a run is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from fuseline.policies.base import WorkflowPolicy
from fuseline.states import State

if TYPE_CHECKING:
    from fuseline.step import Step
    from fuseline.workflow import Workflow

__all__ = ["Progress"]


class Progress(WorkflowPolicy):
    """Shows ``done/all steps`` of one run: redrawn in place on a terminal, one line at the end elsewhere.

    Args:
        total: steps of the run.
        stream: where to; default is standard error.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._done = 0
        self._failed = 0
        self._retries = 0

    def on_step_success(self, step: Step, result: Any) -> None:
        self._done += 1
        self._draw(step.name)

    def on_step_failure(self, step: Step, exc: BaseException) -> None:
        self._failed += 1
        self._draw(step.name)

    def on_step_retry(self, step: Step, exc: BaseException, delay: float) -> None:
        self._failed -= 1
        self._retries += 1
        self._draw(step.name)

    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        start, end = ("\r", "\x1b[K\n") if self._stream.isatty() else ("", "\n")
        self._stream.write(f"{start}{workflow.name}: {self._counts()}, {state.lower()}{end}")
        self._stream.flush()

    def _draw(self, name: str) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r{self._counts()}  {name[:40]}\x1b[K")
            self._stream.flush()

    def _counts(self) -> str:
        text = f"{self._done}/{self._total} step{'' if self._total == 1 else 's'}"
        if self._retries:
            text += f", {self._retries} retried"
        return text + (f", {self._failed} failed" if self._failed else "")
