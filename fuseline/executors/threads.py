"""ThreadsExecutor: steps run in a pool of threads. For code that releases the GIL, and for input and output."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from fuseline.attempt import Hosted, StepHost
from fuseline.encoding import encode_error
from fuseline.executors.base import Executor, Inbox, never_started
from fuseline.messages import AttemptReport, Outcome, StepAssignment

__all__ = ["ThreadsExecutor"]


class ThreadsExecutor(Executor):
    """Runs steps in threads of this process. A timeout interrupts, a crash ends the program.

    All runs share the step objects, so a step that changes its own attributes must do so safely.
    """

    name = "threads"

    def __init__(self, processes: int | None = None) -> None:
        super().__init__(processes)
        self._pool: ThreadPoolExecutor | None = None
        self._workflows: Mapping[str, Hosted] = {}
        self._host = StepHost()
        self._running: dict[int, tuple[StepAssignment, Future[None]]] = {}
        self._inbox = Inbox()

    def start(self, workflows: Mapping[str, Hosted]) -> None:
        self._inbox.open()
        self._running.clear()
        self._workflows = workflows
        self._host = StepHost(workplace=self.workplace)
        self._pool = ThreadPoolExecutor(self.processes, thread_name_prefix="fuseline")

    def free_slots(self) -> int:
        return self.processes - len(self._running)

    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        assert self._pool is not None, "start() comes first"
        for assignment in assignments:
            self._running[assignment.token] = (assignment, self._pool.submit(self._carry_out, assignment))

    def _carry_out(self, assignment: StepAssignment) -> None:
        step, policies = self._workflows[assignment.workflow_id][assignment.step_name]
        try:
            report = self._host.carry_out(
                step,
                policies,
                workflow_id=assignment.workflow_id,
                payload=assignment.payload,
                token=assignment.token,
            )
        except BaseException as error:  # it contains all that a step does; but without a report nobody would go on
            lost = encode_error(error)
            report = AttemptReport(token=assignment.token, outcome=Outcome.LOST, error=lost, started=time.monotonic())
        self._inbox.put(report)

    def kill(self, token: int) -> None:
        """Do nothing: a thread cannot be killed, and ends by itself."""

    def poll(self) -> list[AttemptReport]:
        reports = self._inbox.take()
        for report in reports:
            self._running.pop(report.token, None)
        return reports

    def deadline(self) -> float | None:
        return None

    def fileno(self) -> int:
        return self._inbox.fileno()

    def close(self) -> None:
        """Wait for what runs to end: there is no way to end a thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            for assignment, future in self._running.values():
                if future.cancelled():
                    self._inbox.put(never_started(assignment))
        self._host.close()
        self._inbox.close()
