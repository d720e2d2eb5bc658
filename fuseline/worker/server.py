"""What runs in a child: read an assignment, run it, report, again.

At the end of its pipe a child ends at once, with all it has started. ``fuseline.worker.messages`` has what goes through
that pipe.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import pickle
import signal
import sys
import threading
import time

from msgspec.structs import replace

from fuseline.attempt import Hosted, StepHost
from fuseline.channel import EncodingError
from fuseline.encoding import encode_error
from fuseline.errors import NotPicklableError
from fuseline.logs import RecordSender
from fuseline.messages import AttemptReport, Outcome, Payload, StepAssignment
from fuseline.presence import Presence
from fuseline.processes.line import ChildLine, LineEnd
from fuseline.processes.output import OutputMarks
from fuseline.processes.safe_path import leave_safe_path
from fuseline.processes.stamp import Stamp
from fuseline.processes.tickets import Tickets
from fuseline.processes.victim import be_the_first_victim
from fuseline.value_files import SharedMaps
from fuseline.values import COMING, Value
from fuseline.worker.housekeeper import Housekeeper
from fuseline.worker.loading import loading
from fuseline.worker.messages import (
    LATER,
    TO_CHILD,
    ChildSettings,
    Close,
    FromChild,
    Heard,
    Listed,
    LoadWorkflow,
    Printed,
    Ready,
    Spent,
    ToChild,
    Untouched,
    duration_of,
    may_be_followed,
    may_be_heard_later,
    stops_run,
)
from fuseline.worker.seeds import Seeds
from fuseline.worker.streams import Streams

__all__ = ["child_main"]

#: Seconds that an idle child keeps large values mapped, which need memory even when nobody needs them any more.
_KEEP_MAPS = 0.5


def child_main(
    settings: ChildSettings,
    line: LineEnd,
    stamp: Stamp,
    tickets: Tickets,
    marks: OutputMarks,
    program: int,
) -> None:
    """Serve assignments until told to close. The target of a child process."""
    _detach(program)
    place = settings.workplace
    presence = None if place is None or place.presence is None else Presence(place.presence)
    try:
        _Server(line.open(TO_CHILD), stamp, tickets, Streams(marks), settings).serve()
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
    be_the_first_victim()
    if os.getppid() != program:  # it was gone before we could ask to be told
        os._exit(1)
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)
    if sys.stdin is None:  # the program has none
        sys.stdin = open(0, closefd=False)  # noqa: SIM115


class _Server:
    def __init__(
        self, line: ChildLine[ToChild], stamp: Stamp, tickets: Tickets, streams: Streams, settings: ChildSettings
    ) -> None:
        self._line = line
        self._has_more = False  #: whether something was said that the program may not have heard
        self._may_wait = False  #: whether the last report was one that may be heard later
        self._nudge_at = 0.0  #: then the next one must be announced, in monotonic seconds
        self._stamp = stamp
        self._tickets = tickets
        self._streams = streams
        self._sending = threading.RLock()  # not a plain one: the handler of a signal may come while we have it
        self._is_sending = False
        self._is_fork = False
        self._pickles: dict[str, bytes] = {}
        self._hosted: dict[str, Hosted] = {}
        self._seeds = Seeds() if settings.seeds else None
        self._settings = settings
        self._housekeeper = Housekeeper(
            isolation=settings.isolation,
            max_steps=settings.max_steps,
            max_memory=settings.max_memory,
            on_wait=self._nudge,
        )
        self._maps = SharedMaps()
        self._host = StepHost(
            killed_from_outside=True,
            workplace=settings.workplace,
            on_setup=self._housekeeper.has_set_up,
            on_phase=stamp.enter,
            map_file=self._maps.map,
        )
        os.register_at_fork(after_in_child=self._part)
        self._last: tuple[int, Value | None] | None = None  #: the attempt before, and its result, if it has returned
        self._is_spent = False  #: whether it begins nothing more
        self._is_unlisted = False  #: whether the program may not know which processes a step has left
        self._is_closing = False  #: whether it was told to close
        #: Runs that failed here, of which nothing may start any more; the program may not have heard of it yet.
        self._failed_runs: set[str] = set()

    def _part(self) -> None:
        """Take note, in a fork that a step has made, that this is one: it must not speak for the step."""
        self._stamp.part()
        self._is_fork = True

    def serve(self) -> None:
        self._settings.log_levels.apply()
        logging.getLogger().addHandler(RecordSender(self._send))
        self._send(Ready())
        while True:
            if self._has_more:
                self._nudge()
            if self._maps and not self._line.wait(_KEEP_MAPS):
                self._maps.clear()
            for message in self._line.receive():
                if isinstance(message, StepAssignment):
                    if not self._is_spent and self._tickets.redeem(message.token):
                        if message.instance_id in self._failed_runs or not self._is_next(message):
                            self._send(Untouched(message.token))
                        else:
                            self._attempt(message)
                elif isinstance(message, Heard):
                    self._failed_runs.discard(message.instance_id)
                elif isinstance(message, LoadWorkflow):
                    self._pickles[message.workflow_id] = message.pickled
                else:
                    self._is_closing |= isinstance(message, Close)
                    self._is_unlisted &= not isinstance(message, Listed)
                    if self._is_closing and not self._is_unlisted:
                        self._close()
                        return
            if self._line.has_ended:
                os.killpg(0, signal.SIGKILL)  # nobody is left to tell: go, and take along what was started

    def _close(self) -> None:
        self._host.close()
        if not self._housekeeper.may_exit():
            logging.shutdown()
            os._exit(0)  # an ordinary exit would wait for a thread that a step has left

    def _is_next(self, assignment: StepAssignment) -> bool:
        """Return whether the assignment that this one follows, if any, is the last that was here, and has returned."""
        return assignment.follows is None or (self._last is not None and self._last[0] == assignment.follows)

    def _attempt(self, assignment: StepAssignment) -> None:
        self._stamp.pick_up(assignment.token)
        if self._maps:
            self._maps.drop_unneeded()
        report = self._carry_out(assignment)
        if self._is_fork:
            os._exit(0)  # the step has forked and both returned: the value of the first process counts
        if stops_run(assignment, report):
            self._failed_runs.add(assignment.instance_id)
        seconds = duration_of(report)
        if printed := self._streams.finish(report.token, seconds):
            self._line.send(Printed(printed))
        try:
            self._send(report, nudge=self._must_be_heard(report, seconds))
        except EncodingError as error:  # for what nobody has thought of
            problem = NotPicklableError(
                f"the report of step {assignment.step_name!r}", str(error), "Return plain data."
            )
            error_info = encode_error(problem)
            report = replace(report, outcome=Outcome.RAISED, result=None, error=error_info)
            self._send(report)
        self._last = (report.token, report.result) if may_be_followed(report) else None
        del report  # a result that is large
        self._tidy_up(seconds)

    def _carry_out(self, assignment: StepAssignment) -> AttemptReport:
        token, workflow_id = assignment.token, assignment.workflow_id
        try:
            step, policies = self._load(workflow_id)[assignment.step_name]
            self._housekeeper.prepare(step)
        except BaseException as error:
            problem = NotPicklableError(
                f"workflow {workflow_id!r} to a child process",
                f"its code cannot be loaded there ({type(error).__name__}: {error})",
                "Make sure that what it imports can be imported without the main script.",
            )
            problem.__cause__ = error
            problem = problem.with_traceback(error.__traceback__)
            return AttemptReport(token=token, outcome=Outcome.RAISED, error=encode_error(problem))
        if self._seeds is not None:
            self._seeds.plant(assignment.payload, step.name)
        self._stamp.start(token)
        payload = assignment.payload
        if assignment.follows is not None and self._last is not None:
            payload = _completed(payload, self._last[1])
        return self._host.carry_out(
            step,
            policies,
            workflow_id=workflow_id,
            payload=payload,
            token=token,
            memory_limit=assignment.memory_limit,
        )

    def _tidy_up(self, seconds: float) -> None:
        """Make the process fit for the next attempt, or say that it is not."""
        fault = self._housekeeper.tidy_up(seconds)
        if self._housekeeper.has_served_enough() or fault:
            self._is_spent = True
            self._is_unlisted = bool(fault)
            self._send(Spent(fault))

    def _must_be_heard(self, report: AttemptReport, seconds: float) -> bool:
        """Return whether this report must be announced now."""
        could_wait, self._may_wait = self._may_wait, may_be_heard_later(report, seconds)
        return not (could_wait and self._may_wait and time.monotonic() < self._nudge_at)

    def _send(self, message: FromChild, *, nudge: bool = True) -> bool:
        """Send a message; return whether that is possible, which it is not from within another call of this."""
        with self._sending:
            if self._is_sending:
                return False
            self._is_sending = True
            try:
                self._line.send(message)
                self._has_more = True
                if nudge:
                    self._nudge()
            finally:
                self._is_sending = False
        return True

    def _nudge(self) -> None:
        self._line.nudge()
        self._has_more = False
        self._nudge_at = time.monotonic() + LATER

    def _load(self, workflow_id: str) -> Hosted:
        if workflow_id not in self._hosted:
            was_enabled = gc.isenabled()
            gc.disable()  # nothing of what is loaded is garbage
            try:
                with loading():
                    self._hosted[workflow_id] = pickle.loads(self._pickles[workflow_id])
            finally:
                if was_enabled:
                    gc.enable()
            gc.freeze()  # nor will it ever be: it need not be looked at any more
            del self._pickles[workflow_id]
            self._housekeeper.settle_in()
        return self._hosted[workflow_id]


def _completed(payload: Payload, result: Value | None) -> Payload:
    """Return what an attempt gets to work with, now that the result is there of the one that it follows."""

    def complete(value: Value) -> Value:
        return result if value == COMING and result is not None else value

    arguments = {
        name: tuple(map(complete, value)) if isinstance(value, tuple) else complete(value)
        for name, value in payload.arguments.items()
    }
    return replace(payload, arguments=arguments)
