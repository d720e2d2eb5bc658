"""Executors that break a promise each, over one that keeps them."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from fuseline.attempt import Hosted
from fuseline.encoding import encode, encode_error
from fuseline.errors import StepCrashed
from fuseline.executors import InlineExecutor, LokyExecutor, ThreadsExecutor
from fuseline.messages import AttemptReport, Outcome, StepAssignment
from fuseline.workplace import Workplace


class Threads(ThreadsExecutor):
    def __init__(self) -> None:
        super().__init__(2)


class Quick(LokyExecutor):
    """Its children are killed at once, so that the tests of the tests are quick."""

    def __init__(self) -> None:
        super().__init__(2, grace=0.0)


# -- reports ----------------------------------------------------------------------------------------------------------


class GivesNoReport(Threads):
    def poll(self) -> list[AttemptReport]:
        super().poll()
        return []


class ReportsTwice(Threads):
    def poll(self) -> list[AttemptReport]:
        return [report for report in super().poll() for _ in range(2)]


class ReportsAgainLater(Threads):
    """Says the last report again when it is asked for more."""

    _last: tuple[AttemptReport, ...] = ()

    def poll(self) -> list[AttemptReport]:
        reports = super().poll()
        if reports:
            self._last = (*self._last, reports[-1])
            return reports
        again, self._last = self._last[:1], ()
        return list(again)


class MixesUpTokens(Threads):
    def poll(self) -> list[AttemptReport]:
        reports = super().poll()
        return [_changed(report, token=1 + report.token) for report in reports]


class TriesAgain(Threads):
    """Takes the decision about a retry upon itself."""

    def poll(self) -> list[AttemptReport]:
        tries: list[tuple[StepAssignment, Any]] = list(self._running.values())
        reports = super().poll()
        for report in [report for report in reports if report.outcome is Outcome.RAISED]:
            for assignment, _ in tries:
                if assignment.token == report.token and not getattr(self, "_tried", False):
                    self._tried = True
                    self.submit([assignment])
                    reports.remove(report)
        return reports


class DropsDecisions(Threads):
    def poll(self) -> list[AttemptReport]:
        return [_changed(report, decision=None) for report in super().poll()]


class DropsTracebacks(Threads):
    def poll(self) -> list[AttemptReport]:
        return [
            report if report.error is None else _changed(report, error=_changed(report.error, traceback=""))
            for report in super().poll()
        ]


class HangsOnWhatCannotBePickled(Threads):
    def poll(self) -> list[AttemptReport]:
        reports = super().poll()
        return [r for r in reports if r.error is None or "NotPicklableError" not in r.error.type_names[0]]


class RaisesOnWhatCannotBePickled(Threads):
    def poll(self) -> list[AttemptReport]:
        reports = super().poll()
        for report in reports:
            if report.error is not None and "NotPicklableError" in report.error.type_names[0]:
                raise TypeError("cannot pickle '_thread.lock' object")
        return reports


class PicklesLate(Threads):
    """Says that it pickles, and does not look before it is too late."""

    pickles = True


class BeginsWhatFollowsAtOnce(Threads):
    """Says that it takes what follows, and takes it for an assignment like any other."""

    chains = True


class GoesOnAfterAFailure(Threads):
    """Begins what follows when the one before it has ended, however that was."""

    chains = True

    def __init__(self) -> None:
        super().__init__()
        self._followers: dict[int, StepAssignment] = {}

    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        self._followers |= {each.follows: each for each in assignments if each.follows is not None}
        super().submit([each for each in assignments if each.follows is None])

    def poll(self) -> list[AttemptReport]:
        reports = super().poll()
        for report in reports:
            if (after := self._followers.pop(report.token, None)) is not None:
                value = encode(None) if report.result is None else report.result
                super().submit([replace(after, payload=replace(after.payload, arguments={"value": value}))])
        return reports


# -- submitting -------------------------------------------------------------------------------------------------------


class BlocksInSubmit(Threads):
    """Returns when the step has ended."""

    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        super().submit(assignments)
        for _, future in list(self._running.values()):
            future.result()


class RunsInSubmit(InlineExecutor):
    _done: tuple[AttemptReport, ...] = ()

    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        super().submit(assignments)
        self._done = (*self._done, *super().poll())
        self._inbox.wake()

    def poll(self) -> list[AttemptReport]:
        done, self._done = self._done, ()
        return [*done, *super().poll()]


class BlocksInPoll(Threads):
    def poll(self) -> list[AttemptReport]:
        for _, future in list(self._running.values()):
            future.result()
        return super().poll()


class TakesTheFirstOnly(Threads):
    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        super().submit(assignments[:1])


class HasAlwaysRoom(Threads):
    def free_slots(self) -> int:
        return 2


class NeverHasRoom(Threads):
    def free_slots(self) -> int:
        return 0


class RunsOneAtATime(Threads):
    def start(self, workflows: Mapping[str, Hosted]) -> None:
        slots, self.processes = self.processes, 1
        super().start(workflows)
        self.processes = slots


class BeginsTwice(Threads):
    def begun(self) -> Sequence[int]:
        return [token for token, (_, future) in self._running.items() if future.running()]


class RecallsWhatRuns(Threads):
    def recall(self, tokens: Collection[int] | None = None) -> None:
        for token in list(self._running):
            self._inbox.put(AttemptReport(token=token, outcome=Outcome.LOST))


# -- waiting ----------------------------------------------------------------------------------------------------------


class NeverReadable(Threads):
    def start(self, workflows: Mapping[str, Hosted]) -> None:
        super().start(workflows)
        self._pipe = os.pipe()

    def fileno(self) -> int:
        return self._pipe[0]

    def close(self) -> None:
        if hasattr(self, "_pipe"):
            for fd in self._pipe:
                os.close(fd)
            del self._pipe
        super().close()


class AlwaysReadable(Threads):
    def poll(self) -> list[AttemptReport]:
        reports = super().poll()
        self._inbox.wake()
        return reports


class ChangesItsDescriptor(NeverReadable):
    _which = 0

    def fileno(self) -> int:
        return super(NeverReadable, self).fileno()

    def poll(self) -> list[AttemptReport]:
        reports = super().poll()
        if reports and self._inbox._wakeup is not None:
            os.dup2(self._inbox.fileno(), self._pipe[0])
            self.fileno = lambda: self._pipe[0]  # type: ignore[method-assign]
        return reports


# -- killing ----------------------------------------------------------------------------------------------------------


class ReportsBeforeTheProcessIsDead(Quick):
    _early: tuple[AttemptReport, ...] = ()

    def kill(self, token: int) -> None:
        self._early = (*self._early, AttemptReport(token=token, outcome=Outcome.KILLED))

    def deadline(self) -> float | None:
        return 0.0 if self._early else super().deadline()

    def poll(self) -> list[AttemptReport]:
        early, self._early = self._early, ()
        return [*early, *super().poll()]


class ReportsATimeoutBeforeTheProcessIsDead(Quick):
    _due: tuple[tuple[float, StepAssignment], ...] = ()

    def submit(self, assignment: StepAssignment) -> None:
        if assignment.timeout is not None:
            self._due = (*self._due, (time.monotonic() + assignment.timeout, assignment))
        super().submit(replace(assignment, timeout=None))

    def deadline(self) -> float | None:
        return min([when for when, _ in self._due] + [super().deadline() or math.inf])

    def poll(self) -> list[AttemptReport]:
        late = [each for when, each in self._due if when <= time.monotonic()]
        self._due = tuple(each for each in self._due if each[1] not in late)
        return [
            AttemptReport(token=each.token, outcome=Outcome.TIMED_OUT, started=0.0) for each in late
        ] + super().poll()


class EndsTooEarly(Quick):
    def submit(self, assignment: StepAssignment) -> None:
        timeout = assignment.timeout
        super().submit(replace(assignment, timeout=None if timeout is None else timeout / 10))


class SaysThatItCrashed(Quick):
    """Of a step that has taken too much memory."""

    def poll(self) -> list[AttemptReport]:
        crash = encode_error(StepCrashed(step_name="step", how="died"))
        return [replace(each, error=crash) if each.outcome is Outcome.LOST else each for each in super().poll()]


class ReportsEachKill(Quick):
    def kill(self, token: int) -> None:
        super().kill(token)
        self._reports.append(AttemptReport(token=token, outcome=Outcome.KILLED))


class KillsAll(Quick):
    """Ends the siblings, too."""

    def kill(self, token: int) -> None:
        for slot in self._slots:
            for assignment in list(slot.queue):
                super().kill(assignment.token)


class ReportsTheKilledThatWasNot(Threads):
    def kill(self, token: int) -> None:
        self._inbox.put(AttemptReport(token=token, outcome=Outcome.KILLED))


# -- the end ----------------------------------------------------------------------------------------------------------


class Leaks(Threads):
    """Leaves something at ``close``; ``left`` undoes it."""

    left: list[Callable[[], object]] = []

    def leak(self) -> Callable[[], object]:
        raise NotImplementedError

    def close(self) -> None:
        if self._pool is not None:
            self.left.append(self.leak())
        super().close()


class LeaksAThread(Leaks):
    def leak(self) -> Callable[[], object]:
        end = threading.Event()
        thread = threading.Thread(target=end.wait, name="forgotten")
        thread.start()
        return lambda: (end.set(), thread.join())


class LeaksADescriptor(Leaks):
    def leak(self) -> Callable[[], object]:
        fd = os.open(os.devnull, os.O_RDONLY)
        return lambda: os.close(fd)


class LeaksAProcess(Leaks):
    def leak(self) -> Callable[[], object]:
        process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
        return process.communicate


class LeaksASemaphore(Leaks):
    def leak(self) -> Callable[[], object]:
        held = [multiprocessing.get_context("fork").Semaphore()]
        return held.clear


class HangsInClose(Threads):
    def close(self) -> None:
        super().close()
        threading.Event().wait()


class CannotBeClosedTwice(Threads):
    def close(self) -> None:
        assert self._pool is not None
        super().close()


class ForgetsWhatCloseFound(Threads):
    def close(self) -> None:
        super().close()
        self._inbox.take()


class RepeatsItselfAfterClose(Threads):
    _all: tuple[AttemptReport, ...] = ()
    _is_closed = False

    def poll(self) -> list[AttemptReport]:
        reports = super().poll()
        self._all = (*self._all, *reports)
        return list(self._all) if self._is_closed else reports

    def close(self) -> None:
        super().close()
        self._is_closed = True


class CannotStartAgain(Threads):
    def close(self) -> None:
        super().close()
        self.start = None  # type: ignore[assignment,method-assign]


class RemembersTheLastEngine(Threads):
    _old: tuple[AttemptReport, ...] = ()

    def close(self) -> None:
        super().close()
        self._old = tuple(self._inbox.take())

    def poll(self) -> list[AttemptReport]:
        old, self._old = self._old, ()
        return [*old, *super().poll()]


class TakesASecondEngine(Threads):
    def start(self, workflows: Mapping[str, Hosted]) -> None:
        if self._pool is None:
            super().start(workflows)


class NeverTearsDown(Threads):
    def close(self) -> None:
        self._host._set_up.clear()
        super().close()


# -- the workplace ----------------------------------------------------------------------------------------------------


class KeepsLargeResults(Threads):
    def start(self, workflows: Mapping[str, Hosted]) -> None:
        place, self.workplace = self.workplace, None
        super().start(workflows)
        self.workplace = place


class HidesItsProcesses(Quick):
    def start(self, workflows: Mapping[str, Hosted]) -> None:
        place = self.workplace
        if place is not None:
            elsewhere = place.presence.with_name("elsewhere")
            elsewhere.touch()
            self.workplace = Workplace(presence=elsewhere)
        super().start(workflows)
        self.workplace = place


class Nameless(Threads):
    name = None  # type: ignore[assignment]


def _changed(struct: Any, **fields: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(struct, **fields)
