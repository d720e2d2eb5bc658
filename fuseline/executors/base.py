"""The contract of every backend.

An executor takes assignments and gives exactly one report for each. It is driven by one thread, which waits for it only
in a selector::

    executor.start(workflows)
    while …:
        executor.submit(assignments)                   # executor.free_slots() at most
        wait until executor.fileno() is readable, or executor.deadline() has come
        for report in executor.poll(): …
    executor.close()

``fuseline.testing.ExecutorContract`` is this page as tests.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from fuseline.attempt import Hosted
from fuseline.encoding import encode_error
from fuseline.errors import StepLost, WorkflowError
from fuseline.messages import AttemptReport, Outcome, StepAssignment
from fuseline.wakeup import Wakeup
from fuseline.workplace import Workplace

__all__ = ["Executor", "Inbox", "check_processes", "in_use", "never_started", "usable_cpus"]


class Executor(ABC):
    """Runs assignments. One instance serves one engine at a time and can be started again after ``close``.

    Args:
        processes: how many assignments run at a time; 1 or more, default is the number of usable CPUs.

    Raises:
        WorkflowError: ``processes`` is no such number.
    """

    name: ClassVar[str]  #: what ``Workflow(executor=...)`` calls it
    #: Whether an attempt is ended for certain, with its process and all that it started; else it is interrupted.
    kills: ClassVar[bool] = False
    #: Whether a crash is the end of one attempt only; else it ends the program.
    isolates_crashes: ClassVar[bool] = False
    #: Whether an attempt that needs more memory than its ``StepAssignment.memory_limit`` is ended with all that it has
    #: started and reported as LOST with a ``StepOutOfMemory``; else a workflow with a ``MemoryLimitPolicy`` is refused.
    limits_memory: ClassVar[bool] = False
    #: Whether steps run in other processes, so that they must be picklable.
    pickles: ClassVar[bool] = False
    #: Whether it takes assignments that follow others (``StepAssignment.follows``): submitted right behind the one that
    #: it follows, such an assignment begins after that in the same place, or is handed back as never started.
    chains: ClassVar[bool] = False
    #: Whether ``poll`` itself runs steps, in the thread that calls it.
    runs_in_caller: ClassVar[bool] = False

    #: Set before ``start``, if the broker has one. Each process that runs steps shows itself there
    #: (``Presence(workplace.presence)``, if it is not None), and large results go there (``StepHost(workplace=...)``).
    workplace: Workplace | None = None

    def __init__(self, processes: int | None = None) -> None:
        self.processes = check_processes(processes)

    @abstractmethod
    def start(self, workflows: Mapping[str, Hosted]) -> None:
        """Get ready to run steps of these workflows: ``{workflow_id: {step's name: (step, its policies)}}``.

        Raises:
            RuntimeError: it is started already, by another engine.
            NotPicklableError: a step cannot be sent to where it should run; the error names the part to blame.
        """

    @abstractmethod
    def free_slots(self) -> int:
        """Return how many more assignments may be submitted now.

        That is one for each idle slot, and a few more if the executor likes to have them at hand; those wait only while
        every slot is busy.
        """

    @abstractmethod
    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        """Accept assignments, as many as ``free_slots`` says at most, and return at once.

        Whatever becomes of them comes out of ``poll``.
        """

    @abstractmethod
    def kill(self, token: int) -> None:
        """Ask for the end of an assignment and return at once; its report follows when it has ended.

        Does nothing if it has ended already, or if the executor cannot: then the assignment ends by itself.
        """

    def begun(self) -> Sequence[int] | None:
        """Return the tokens of assignments whose turn has come since the last call: nothing is before them in a slot.

        None, the default, stands for all that were submitted.
        """
        return None

    def recall(self, tokens: Collection[int] | None = None) -> None:  # noqa: B027 - most have nothing to do
        """Give back the assignments that were not begun: ``poll`` reports them as lost, without a time of start.

        An executor that begins all that it accepts has none.

        Args:
            tokens: which of them; default is all.
        """

    @abstractmethod
    def poll(self) -> list[AttemptReport]:
        """Do whatever can be done without waiting, and return the reports that are new."""

    @abstractmethod
    def deadline(self) -> float | None:
        """Return when ``poll`` must be called even if nothing becomes readable, in monotonic seconds, or None."""

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor, the same from ``start`` to ``close``, that is readable when ``poll`` has work."""

    def flush(self) -> None:  # noqa: B027 - most have nothing to do
        """Let all be seen that ended attempts have printed. Blocks, for some seconds at most."""

    @abstractmethod
    def close(self) -> None:
        """End what runs, tear down what was set up, and leave no process, thread or descriptor. Blocks until then.

        May be called twice, and without ``start``. Assignments that it ended are reported by a last ``poll``.
        """


def in_use() -> RuntimeError:
    """Return the error of an executor that is started while it is."""
    return RuntimeError("this executor is in use by another engine. Close that first, or give each its own instance.")


class Inbox:
    """Reports from other threads, with a descriptor to wait for them."""

    def __init__(self) -> None:
        self._reports: deque[AttemptReport] = deque()
        self._wakeup: Wakeup | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        """Open the descriptor, and drop what nobody has taken since it was closed.

        Raises:
            RuntimeError: it is open.
        """
        if self._wakeup is not None:
            raise in_use()
        self._reports.clear()
        self._wakeup = Wakeup()

    def close(self) -> None:
        """Close the descriptor; what is in it can still be taken."""
        if self._wakeup is not None:
            self._wakeup.close()
            self._wakeup = None

    def fileno(self) -> int:
        if self._wakeup is None:
            raise RuntimeError("the executor is not started")
        return self._wakeup.fileno()

    def put(self, report: AttemptReport) -> None:
        """Add a report. Thread-safe."""
        self._reports.append(report)
        self.wake()

    def wake(self) -> None:
        """Make the descriptor readable. Thread-safe."""
        if (wakeup := self._wakeup) is not None:
            wakeup.set()

    def take(self) -> list[AttemptReport]:
        """Return what is there."""
        if self._wakeup is not None:
            self._wakeup.clear()
        reports: list[AttemptReport] = []
        while self._reports:
            reports.append(self._reports.popleft())
        return reports


def never_started(assignment: StepAssignment) -> AttemptReport:
    """Return the report of an assignment that was accepted but not begun, so that it can simply be handed back."""
    lost = StepLost(
        f"step {assignment.step_name!r} of run {assignment.instance_id} was not started before its engine stopped.",
        step_name=assignment.step_name,
        instance_id=assignment.instance_id,
        attempt=assignment.attempt,
    )
    return AttemptReport(token=assignment.token, outcome=Outcome.LOST, error=encode_error(lost))


def usable_cpus() -> int:
    """Return how many CPUs this program may use: affinity and cgroup limits count, and LOKY_MAX_CPU_COUNT."""
    from loky import cpu_count

    return int(cpu_count())


def check_processes(processes: int | None) -> int:
    """Return ``processes``, or the number of usable CPUs for None.

    Raises:
        WorkflowError: it is not a whole number of 1 or more.
    """
    if processes is None:
        return usable_cpus()
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise WorkflowError(
            f"processes={processes!r}: give a whole number of 1 or more, or None for one per usable CPU "
            f"(of {os.cpu_count()} here)."
        )
    return processes
