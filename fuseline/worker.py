"""What runs in a child: read an assignment, run it, report, again.

::

    program ── LoadWorkflow ───▶ child     once per workflow, before its first assignment
    program ── StepAssignment ─▶ child     it may be taken back until the child takes its ticket
    program ◀─ AttemptReport ─── child
    program ◀─ Untouched ─────── child     instead, if its run has just failed in this child
    program ── Heard ──────────▶ child     of that failure: what comes after this is wanted
    program ── Close ──────────▶ child     teardown, then a clean exit

The child says ``Ready`` once, when it has started. At the end of the pipe it ends at once, with all it has started.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import signal
import sys
import time
from multiprocessing import process
from multiprocessing.connection import Connection

import msgspec
from msgspec.structs import replace

from fuseline.attempt import Hosted, SharedDict, StepHost, build_shared_dict
from fuseline.channel import Channel, EncodingError, Incoming, ProtocolError, incoming
from fuseline.encoding import encode_error
from fuseline.errors import NotPicklableError
from fuseline.messages import AttemptReport, FailureAction, Outcome, StepAssignment
from fuseline.presence import Presence
from fuseline.processes.safe_path import leave_safe_path
from fuseline.processes.stamp import Stamp
from fuseline.processes.tickets import Tickets
from fuseline.workplace import Workplace

__all__ = [
    "FROM_CHILD",
    "Close",
    "FromChild",
    "Heard",
    "LoadWorkflow",
    "Ready",
    "SharedDict",
    "Untouched",
    "build_shared_dict",
    "check_report",
    "child_main",
    "stops_run",
]


# -- what is said besides assignments and reports ---------------------------------------------------------------------


class LoadWorkflow(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a child the steps of a workflow, as a pickle that it opens when it needs them."""

    workflow_id: str
    pickled: bytes


class Heard(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a child that its program knows of the failure of a run: what comes after this is wanted."""

    instance_id: str


class Close(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a child to tear down its steps and exit."""


class Untouched(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Gives an assignment back that was not begun, because its run has failed in this child before."""

    token: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Says that a child has started."""


ToChild = LoadWorkflow | StepAssignment | Heard | Close
FromChild = Ready | Untouched | AttemptReport


def stops_run(assignment: StepAssignment, report: AttemptReport) -> bool:
    """Return whether nothing else of its run may start after this report."""
    decision = report.decision
    return assignment.failure_stops_run and decision is not None and decision.action is FailureAction.FAIL


def check_report(report: AttemptReport) -> None:
    """Make sure that a child has written a report, and not a step in its name.

    Raises:
        ProtocolError: it makes no sense.
    """
    returned = report.outcome is Outcome.RETURNED
    is_known = returned or report.outcome in (Outcome.RAISED, Outcome.TIMED_OUT)
    has_its_parts = (report.result is not None) is returned and (report.error is not None) is not returned
    is_named = report.error is None or report.error.type_names
    times = [each for each in (report.started, report.ended) if each is not None]
    is_in_time = all(first <= then for first, then in itertools.pairwise([0.0, *times, time.monotonic()]))
    if not (is_known and has_its_parts and is_named and is_in_time):
        raise ProtocolError("a report that makes no sense")


_TO_CHILD: Incoming[ToChild] = incoming(ToChild)
FROM_CHILD: Incoming[FromChild] = incoming(FromChild)


# -- the child --------------------------------------------------------------------------------------------------------


def child_main(
    workplace: Workplace | None, connection: Connection, stamp: Stamp, tickets: Tickets, program: int
) -> None:
    """Serve assignments until told to close. The target of a child process."""
    _detach(program)
    presence = None if workplace is None else Presence(workplace.presence)
    try:
        _Server(connection, stamp, tickets, workplace).serve()
    except OSError as error:
        if error.errno == errno.EBADF:  # a step has closed what was not its own: nobody is left to tell
            os._exit(1)
        raise
    finally:
        if presence is not None:
            presence.leave()


def _detach(program: int) -> None:
    """Make this process one that leads its own group, leaves with its program, and has no terminal to wait for."""
    os.setsid()
    leave_safe_path()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which decides what it means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # for what a step starts
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1  # noqa: N806 - its name in prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != program:  # it was gone before we could ask to be told
        os._exit(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    process.current_process().daemon = False  # steps may use multiprocessing themselves


class _Server:
    def __init__(self, connection: Connection, stamp: Stamp, tickets: Tickets, workplace: Workplace | None) -> None:
        self._connection = connection
        self._channel: Channel[ToChild, FromChild] = Channel(connection.fileno(), _TO_CHILD)
        self._stamp = stamp
        self._tickets = tickets
        self._pid = os.getpid()
        self._pickles: dict[str, bytes] = {}
        self._hosted: dict[str, Hosted] = {}
        self._host = StepHost(killed_from_outside=True, workplace=workplace)
        #: Runs that failed here, of which nothing may start any more; the program may not have heard of it yet.
        self._failed_runs: set[str] = set()

    def serve(self) -> None:
        self._channel.send(Ready())
        while True:
            for message in self._channel.receive():
                if isinstance(message, StepAssignment):
                    if self._tickets.redeem(message.token):
                        if message.instance_id in self._failed_runs:
                            self._channel.send(Untouched(message.token))
                        else:
                            self._attempt(message)
                elif isinstance(message, Heard):
                    self._failed_runs.discard(message.instance_id)
                elif isinstance(message, LoadWorkflow):
                    self._pickles[message.workflow_id] = message.pickled
                else:
                    self._host.close()
                    return
            if self._channel.has_ended:
                os.killpg(0, signal.SIGKILL)  # nobody is left to tell: go, and take along what was started

    def _attempt(self, assignment: StepAssignment) -> None:
        token, workflow_id = assignment.token, assignment.workflow_id
        self._stamp.pick_up(token)
        try:
            hosted = self._load(workflow_id)
        except BaseException as error:
            problem = NotPicklableError(
                f"workflow {workflow_id!r} to a child process",
                f"its code cannot be loaded there ({type(error).__name__}: {error})",
                "Make sure that what it imports can be imported without the main script.",
            )
            problem.__cause__ = error
            problem = problem.with_traceback(error.__traceback__)
            report = AttemptReport(token=token, outcome=Outcome.RAISED, error=encode_error(problem))
        else:
            self._stamp.start(token)
            step, policies = hosted[assignment.step_name]
            report = self._host.carry_out(
                step, policies, workflow_id=workflow_id, payload=assignment.payload, token=token
            )
        if os.getpid() != self._pid:
            os._exit(0)  # the step has forked and both returned: the value of the first process counts
        if stops_run(assignment, report):
            self._failed_runs.add(assignment.instance_id)
        _flush_output()
        try:
            self._channel.send(report)
        except EncodingError as error:  # for what nobody has thought of
            problem = NotPicklableError(
                f"the report of step {assignment.step_name!r}", str(error), "Return plain data."
            )
            error_info = encode_error(problem)
            self._channel.send(replace(report, outcome=Outcome.RAISED, result=None, error=error_info))

    def _load(self, workflow_id: str) -> Hosted:
        if workflow_id not in self._hosted:
            self._hosted[workflow_id] = pickle.loads(self._pickles[workflow_id])
            del self._pickles[workflow_id]
        return self._hosted[workflow_id]


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed or replaced by the step: its own affair
            pass
