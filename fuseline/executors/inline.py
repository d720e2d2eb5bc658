"""InlineExecutor: steps run in the calling thread, one after the other. For debugging and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fuseline.attempt import Hosted, StepHost
from fuseline.executors.base import Executor, Inbox, never_started
from fuseline.messages import AttemptReport, StepAssignment

__all__ = ["InlineExecutor"]


class InlineExecutor(Executor):
    """Runs each step inside ``poll``, where a debugger can follow. A timeout interrupts, a crash ends the program."""

    name = "inline"
    runs_in_caller = True

    def __init__(self, processes: int | None = None) -> None:
        super().__init__(1)
        self._waiting: StepAssignment | None = None
        self._inbox = Inbox()  # carries nothing, but wakes the selector when an assignment waits
        self._workflows: Mapping[str, Hosted] = {}
        self._host = StepHost()

    def start(self, workflows: Mapping[str, Hosted]) -> None:
        self._inbox.open()
        self._waiting = None
        self._workflows = workflows
        self._host = StepHost(workplace=self.workplace)

    def free_slots(self) -> int:
        return 1 if self._waiting is None else 0

    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        for assignment in assignments:
            self._waiting = assignment
            self._inbox.wake()

    def kill(self, token: int) -> None:
        """Do nothing: what runs here runs in the thread that would have to call this."""

    def poll(self) -> list[AttemptReport]:
        reports = self._inbox.take()
        if self._waiting is not None:
            assignment, self._waiting = self._waiting, None
            step, policies = self._workflows[assignment.workflow_id][assignment.step_name]
            reports.append(
                self._host.carry_out(
                    step,
                    policies,
                    workflow_id=assignment.workflow_id,
                    payload=assignment.payload,
                    token=assignment.token,
                )
            )
        return reports

    def deadline(self) -> float | None:
        return None

    def fileno(self) -> int:
        return self._inbox.fileno()

    def close(self) -> None:
        if self._waiting is not None:
            self._inbox.put(never_started(self._waiting))
            self._waiting = None
        self._host.close()
        self._inbox.close()
