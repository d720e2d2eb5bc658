"""What a program and its child say to each other, besides assignments and reports.

::

    program ── LoadWorkflow ───▶ child     once per workflow, before its first assignment
    program ── StepAssignment ─▶ child     it may be taken back until the child takes its ticket
    program ◀─ Logged ────────── child     a log record of the step
    program ◀─ Printed ───────── child     just before the report
    program ◀─ AttemptReport ─── child
    program ◀─ Untouched ─────── child     instead, if its run has just failed in this child, or what it follows
    program ◀─ Spent ─────────── child     it begins nothing more, and waits for Close
    program ── Heard ──────────▶ child     of that failure: what comes after this is wanted
    program ── Listed ─────────▶ child     what a spent child has left is known, and so it may exit
    program ── Close ──────────▶ child     teardown, then a clean exit

The child says ``Ready`` once, when it has started.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fuseline.channel import Incoming, ProtocolError, incoming
from fuseline.logs import Logged, LogLevels
from fuseline.messages import AttemptReport, FailureAction, Outcome, StepAssignment
from fuseline.workplace import LARGE, Workplace

__all__ = [
    "FROM_CHILD",
    "LATER",
    "TO_CHILD",
    "ChildSettings",
    "Close",
    "FromChild",
    "Heard",
    "Listed",
    "LoadWorkflow",
    "Printed",
    "Ready",
    "Spent",
    "ToChild",
    "Untouched",
    "check_report",
    "duration_of",
    "may_be_followed",
    "may_be_heard_later",
    "stops_run",
]


#: Seconds of an attempt of which there may be many more in this moment.
_QUICK = 0.0002
#: Seconds in which a child announces such reports at most once.
LATER = 0.00025


class LoadWorkflow(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a child the steps of a workflow, as a pickle that it opens when it needs them."""

    workflow_id: str
    pickled: bytes


class Heard(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a child that its program knows of the failure of a run: what comes after this is wanted."""

    instance_id: str


class Listed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a child which said what its last step has left that the processes among that will be ended with it."""


class Close(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a child to tear down its steps and exit."""


class Untouched(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Gives an assignment back that was not begun: its run, or what it follows, has failed in this child before."""

    token: int


class Printed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Goes before the report of an attempt that may have printed something: in which streams its end was marked."""

    streams: list[int]  #: 0 is standard output, 1 is standard error


class Spent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Says that a child begins nothing more, because its last attempt has left it unfit for the next."""

    fault: str  #: what its last step did, the end of a sentence; empty if it has merely served long enough


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Says that a child has started."""


ToChild = LoadWorkflow | StepAssignment | Heard | Listed | Close
FromChild = Ready | Untouched | AttemptReport | Printed | Logged | Spent


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told when it is started."""

    workplace: Workplace | None = None
    log_levels: LogLevels = LogLevels()
    isolation: bool = True  #: whether to undo what an attempt has changed in the process
    seeds: bool = True  #: whether to seed ``random`` and ``numpy.random`` for each attempt
    max_steps: int | None = None  #: attempts after which it is spent
    max_memory: int | None = None  #: bytes of resident memory after an attempt, above which it is spent


def duration_of(report: AttemptReport) -> float:
    """Return how many seconds an attempt took; infinitely many where that is not known."""
    return math.inf if report.started is None or report.ended is None else report.ended - report.started


def may_be_heard_later(report: AttemptReport, seconds: float) -> bool:
    """Return whether a report, of an attempt of so many seconds, is one of many that need not be announced one by one.

    If it and the report before it are, a child lets its program find it in its own time: the program looks again soon
    after it has heard such a report, and until then nobody waits long for it.
    """
    return seconds < _QUICK and report.outcome is Outcome.RETURNED


def may_be_followed(report: AttemptReport) -> bool:
    """Return whether an assignment that follows this one begins: its result is there, and no burden."""
    return report.outcome is Outcome.RETURNED and report.result is not None and len(report.result.data) <= LARGE


def stops_run(assignment: StepAssignment, report: AttemptReport) -> bool:
    """Return whether nothing else of its run may start after this report."""
    decision = report.decision
    return assignment.failure_stops_run and decision is not None and decision.action is FailureAction.FAIL


def check_report(report: AttemptReport) -> None:
    """Make sure that a child has written a report, and not a step in its name.

    Raises:
        ProtocolError: it makes no sense.
    """
    result, error = report.result, report.error
    if report.outcome is Outcome.RETURNED:
        has_its_parts = result is not None and error is None
    else:
        is_known = report.outcome in (Outcome.RAISED, Outcome.TIMED_OUT)
        has_its_parts = is_known and result is None and error is not None and bool(error.type_names)
    started = 0.0 if report.started is None else report.started
    ended = started if report.ended is None else report.ended
    if not (has_its_parts and 0.0 <= started <= ended <= time.monotonic()):
        raise ProtocolError("a report that makes no sense")


TO_CHILD: Incoming[ToChild] = incoming(ToChild)
FROM_CHILD: Callable[[Any], FromChild] = msgspec.msgpack.Decoder(FromChild).decode
