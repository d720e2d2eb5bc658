"""Bench: drives an executor as an engine does, and nothing else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from fuseline.encoding import decode, decode_error, encode
from fuseline.executors.base import Executor
from fuseline.messages import AttemptReport, Outcome, Payload, StepAssignment
from fuseline.policies import MemoryLimitPolicy, StepTimeoutPolicy
from fuseline.step import Step
from fuseline.testing.gate import HANG, Gate
from fuseline.testing.promise import BrokenPromise, Contract
from fuseline.testing.watchdog import Hung
from fuseline.values import Value
from fuseline.wakeup import wait_readable
from fuseline.workflow import Workflow

__all__ = ["Bench", "BenchContract", "error_of", "is_running", "result_of"]

#: What every test relies on.
EXACTLY_ONE = "each accepted assignment gives exactly one report"


class Bench:
    """An executor that is started with some steps, and hands to work it. Its ``with`` statement closes the executor.

    It waits as an engine does: until ``fileno`` is readable or ``deadline`` has come, and calls ``poll`` only then.

    Args:
        patience: seconds that a report may take.
    """

    def __init__(self, executor: Executor, *workpieces: Step, patience: float = HANG) -> None:
        self.executor = executor
        self.workflow = Workflow(outputs=workpieces, name="bench")
        self.executor.start({"bench": self.workflow.hosted()})
        self.patience = patience
        self._tokens = iter(range(1, 10**9))
        self._reported: dict[int, AttemptReport] = {}

    def assign(self, step: Step, attempt: int = 1, **arguments: Any) -> StepAssignment:
        """Return an assignment of an attempt of ``step``, with a new token."""
        values: dict[str, Value | tuple[Value, ...]] = {name: encode(value) for name, value in arguments.items()}
        seconds = [p.seconds for p in step.policies if isinstance(p, StepTimeoutPolicy)]
        limits = [p.bytes for p in step.policies if isinstance(p, MemoryLimitPolicy)]
        return StepAssignment(
            workflow_id="bench",
            instance_id="run",
            step_name=step.name,
            payload=Payload(arguments=values, attempt=attempt, instance_id="run"),
            token=next(self._tokens),
            attempt=attempt,
            timeout=min(seconds, default=None),
            memory_limit=min(limits, default=None),
        )

    def submit(self, step: Step, attempt: int = 1, **arguments: Any) -> int:
        """Submit an attempt of ``step`` and return its token."""
        assignment = self.assign(step, attempt, **arguments)
        self.executor.submit([assignment])
        return assignment.token

    def poll(self) -> dict[int, AttemptReport]:
        """Return the reports that are there, by token.

        Raises:
            BrokenPromise: one is the second for its assignment.
        """
        reports: dict[int, AttemptReport] = {}
        for report in self.executor.poll():
            if report.token in self._reported:
                raise BrokenPromise(EXACTLY_ONE, f"a second report on assignment {report.token}: {report!r:.300}")
            self._reported[report.token] = reports[report.token] = report
        return reports

    def collect(self, count: int) -> dict[int, AttemptReport]:
        """Drive the executor until ``count`` reports are there; return them by token.

        Raises:
            BrokenPromise: they did not come, or more than one came for an assignment.
        """
        reports: dict[int, AttemptReport] = {}
        give_up = time.monotonic() + self.patience
        while len(reports) < count:
            self._wait(give_up)
            if time.monotonic() >= give_up:
                raise self._missing(len(reports), count)
            reports |= self.poll()
        return reports

    def _wait(self, give_up: float) -> None:
        """Wait as long as the executor says."""
        until = self.executor.deadline()
        wait_readable([self.executor.fileno()], min(give_up, give_up if until is None else until) - time.monotonic())

    def _missing(self, number: int, count: int) -> BrokenPromise:
        what = f"{number} of {count} reports after {self.patience:g} s"
        late = len(self.executor.poll())
        if late:
            seen = f"{what}; poll() had {late} more, but fileno() or deadline() had not said so"
            return BrokenPromise("fileno() or deadline() says when poll() has something to do", seen)
        return BrokenPromise(EXACTLY_ONE, f"{what}. Has the process or thread of an attempt died without a report?")

    def run(self, step: Step, **arguments: Any) -> AttemptReport:
        """Submit one attempt and return its report."""
        token = self.submit(step, **arguments)
        reports = self.collect(1)
        assert token in reports, f"a report on assignment {next(iter(reports))}, but {token} was submitted"
        return reports[token]

    def run_all(self, step: Step, arguments: list[dict[str, Any]]) -> list[AttemptReport]:
        """Run an attempt for each of ``arguments``, as many at a time as there are slots; return reports in order."""
        waiting = list(reversed(arguments))
        tokens: list[int] = []
        reports: dict[int, AttemptReport] = {}
        while len(reports) < len(arguments):
            while waiting and self.executor.free_slots():
                tokens.append(self.submit(step, **waiting.pop()))
            reports |= self.collect(1)
        return [reports[token] for token in tokens]

    def let_go(self, gate: Gate, token: int) -> AttemptReport:
        """Open a gate for the assignment that waits there, unless that has ended; return its report."""
        gate.open()
        while token not in self._reported:
            self.collect(1)
        return self._reported[token]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What went wrong first is what its author should read.
        with contextlib.suppress(*([] if error is None else [Exception, Hung])):
            self.executor.close()


class BenchContract(Contract):
    """Tests on a bench. Subclass them and set ``make_executor``.

    Attributes:
        make_executor: called without arguments, returns a new executor that is not started. It should have two slots,
            unless it can have only one.
    """

    make_executor: Callable[[], Executor]
    subject = Executor
    leaves = "close() leaves no process, thread, descriptor or semaphore"

    def bench(self, *workpieces: Step) -> Bench:
        return self.bench_of(self.make_executor(), *workpieces)

    def bench_of(self, executor: Executor, *workpieces: Step) -> Bench:
        """Return a bench whose own bound comes before that of the test, because it knows what is missing."""
        return Bench(executor, *workpieces, patience=self.patience / 2)

    def gate(self) -> Gate:
        return Gate(self.patience / 2)


def error_of(report: AttemptReport) -> BaseException:
    """Return the exception in a report of something else than success."""
    assert report.error is not None, f"a report of {report.outcome} has no error"
    return decode_error(report.error, step_name="step")


def result_of(report: AttemptReport) -> Any:
    """Return the result in a report of success."""
    assert report.outcome is Outcome.RETURNED, f"{report.outcome}: {report.error}"
    assert report.result is not None, "a report of RETURNED has no result"
    return decode(report.result)


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
