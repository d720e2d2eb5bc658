"""What runs in a child: read an assignment, run it, report, again.

::

    program ── ["workflow", id] + its pickle ─▶ child      once per workflow, before its first assignment
    program ── ["attempt", token, …] + values ─▶ child     it may be taken back until the child takes its ticket
    program ◀─ ["ended", token, …] + value ──── child
    program ── ["close"] ──────────────────────▶ child     teardown, then a clean exit

The child says ``["ready"]`` once, when it has started. At the end of the pipe it ends at once, with all it has started.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from multiprocessing import process
from multiprocessing.connection import Connection
from typing import Any

from fuseline.attempt import Hosted, SharedDict, StepHost, build_shared_dict
from fuseline.errors import NotPicklableError
from fuseline.messages import AttemptReport, FailureAction, FailureDecision, Outcome, Payload, StepAssignment
from fuseline.processes.channel import Channel
from fuseline.processes.stamp import Stamp
from fuseline.processes.tickets import Tickets
from fuseline.values import ErrorInfo, Value, encode_error

__all__ = [
    "SharedDict",
    "build_shared_dict",
    "child_main",
    "pack_assignment",
    "pack_report",
    "unpack_report",
]

Packed = tuple[list[Any], list[bytes]]


# -- the child --------------------------------------------------------------------------------------------------------


def child_main(connection: Connection, stamp: Stamp, tickets: Tickets, program: int) -> None:
    """Serve assignments until told to close. The target of a child process."""
    _detach(program)
    _Server(connection, stamp, tickets).serve()


def _detach(program: int) -> None:
    """Make this process one that leads its own group, leaves with its program, and has no terminal to wait for."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which decides what it means
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
    def __init__(self, connection: Connection, stamp: Stamp, tickets: Tickets) -> None:
        self._connection = connection
        self._channel = Channel(connection.fileno())
        self._stamp = stamp
        self._tickets = tickets
        self._pid = os.getpid()
        self._pickles: dict[str, bytes] = {}
        self._hosted: dict[str, Hosted] = {}
        self._host = StepHost(killed_from_outside=True)

    def serve(self) -> None:
        self._channel.send(["ready"])
        while True:
            for header, blobs in self._channel.receive():
                if header[0] == "workflow":
                    self._pickles[header[1]] = blobs[0]
                elif header[0] == "attempt":
                    if self._tickets.redeem(header[1]):
                        self._attempt(header, blobs)
                elif header[0] == "close":
                    self._host.close()
                    return
            if self._channel.has_ended:
                os.killpg(0, signal.SIGKILL)  # nobody is left to tell: go, and take along what was started

    def _attempt(self, header: list[Any], blobs: list[bytes]) -> None:
        _, token, workflow_id, step_name = header[:4]
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
            step, policies = hosted[step_name]
            payload = _unpack_payload(header, blobs)
            report = self._host.carry_out(step, policies, workflow_id=workflow_id, payload=payload, token=token)
        if os.getpid() != self._pid:
            os._exit(0)  # the step has forked and both returned: the value of the first process counts
        _flush_output()
        self._channel.send(*pack_report(report))

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


# -- messages ---------------------------------------------------------------------------------------------------------


def pack_assignment(assignment: StepAssignment) -> Packed:
    """Return an assignment as header and blobs."""
    payload = assignment.payload
    names: list[tuple[str, int | None]] = []  # (parameter, number of values for a ``*parameter``)
    blobs: list[bytes] = []
    for name, value in payload.arguments.items():
        if isinstance(value, tuple):
            names.append((name, len(value)))
            blobs.extend(each.data for each in value)
        else:
            names.append((name, None))
            blobs.append(value.data)
    failures = list(payload.failures.items())
    header = [
        "attempt",
        assignment.token,
        assignment.workflow_id,
        assignment.step_name,
        assignment.instance_id,
        payload.attempt,
        failures,
        names,
    ]
    return header, blobs


def _unpack_payload(header: list[Any], blobs: list[bytes]) -> Payload:
    instance_id, attempt, failures, names = header[4:]
    values = map(Value, blobs)
    arguments: dict[str, Value | tuple[Value, ...]] = {}
    for name, count in names:
        arguments[name] = next(values) if count is None else tuple(next(values) for _ in range(count))
    return Payload(arguments=arguments, attempt=attempt, failures=dict(failures), instance_id=instance_id)


def pack_report(report: AttemptReport) -> Packed:
    """Return a report as header and blobs."""
    blobs = [] if report.result is None else [report.result.data]
    error = None
    if report.error is not None:
        info = report.error
        error = [info.type_names, info.message, info.traceback, info.reason, info.value is not None]
        if info.value is not None:
            blobs.append(info.value.data)
    decision = None if report.decision is None else [report.decision.action, report.decision.delay]
    header = ["ended", report.token, report.outcome, error, decision, report.decided_by, report.started]
    return header, blobs


def unpack_report(header: list[Any], blobs: list[bytes]) -> AttemptReport:
    """Return the report that ``pack_report`` packed.

    Raises:
        ValueError, TypeError, IndexError: it is not one.
    """
    _, token, outcome, error, decision, decided_by, started = header
    info = None
    if error is not None:
        names, message, trace, reason, has_value = error
        value = Value(blobs[0]) if has_value else None
        info = ErrorInfo(type_names=tuple(names), message=message, traceback=trace, value=value, reason=reason)
    return AttemptReport(
        token=token,
        outcome=Outcome(outcome),
        result=Value(blobs[0]) if error is None else None,
        error=info,
        decision=None if decision is None else FailureDecision(FailureAction(decision[0]), decision[1]),
        decided_by=decided_by,
        started=started,
    )
