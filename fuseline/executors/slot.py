"""Slot: a child process, the assignment that runs in it, and the few that wait in it for their turn.

Who says that an attempt is over::

    BOOTING ──Ready────▶ serving ──send──▶ busy ──report───▶ serving     the child says so
                                            │──its process ends──▶ ending ──gone──▶ LOST
                                            │──deadline──────────▶ ending ──gone──▶ TIMED_OUT
                                            │──too much memory───▶ ending ──gone──▶ LOST
                                            └──end(KILLED)───────▶ ending ──gone──▶ KILLED

The report of an attempt whose child ended appears only when nothing is left of the child's process group, so a next
attempt never runs beside it. Before an attempt is called lost or timed out, its pipe is read to the end: a report that
is in there wins.

An assignment that waits in a child can be taken back until the child begins it (``processes.tickets``). Before a child
is ended, everything is taken back that can be. So what is left in it, one assignment at most, is what its end is for.
"""

from __future__ import annotations

import itertools
import logging
import math
import selectors
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec

from fuseline.channel import EncodingError, ProtocolError
from fuseline.encoding import encode_error
from fuseline.errors import FuselineError, NotPicklableError
from fuseline.executors.base import never_started
from fuseline.executors.listener import Listener
from fuseline.executors.pump import Pump
from fuseline.executors.verdict import asks_for_a_new_child, explained, killed, phase_of, what_ended
from fuseline.logs import Logged, LogLevels
from fuseline.messages import AttemptReport, Outcome, StepAssignment
from fuseline.processes.child import Child
from fuseline.processes.memory import MemoryWatch
from fuseline.processes.stamp import StampReading
from fuseline.worker.messages import (
    FROM_CHILD,
    LATER,
    ChildSettings,
    Close,
    FromChild,
    Heard,
    Listed,
    LoadWorkflow,
    Printed,
    Spent,
    Untouched,
    check_report,
    duration_of,
    may_be_followed,
    may_be_heard_later,
    stops_run,
)
from fuseline.worker.server import child_main

__all__ = ["Desk", "Slot"]

_log = logging.getLogger("fuseline")

#: Seconds that loading the code of a workflow may take in a child, on top of the timeout of the step that waits for it.
_LOADING_ALLOWANCE = 60.0
#: Seconds in which a child that has nothing else to do must begin an assignment, its own start included.
_BEGINNING_ALLOWANCE = 60.0
#: Seconds in which a child that is told to close may tear down its steps and exit by itself.
_CLOSING_GRACE = 5.0
#: Seconds between the end of a child's pipe and the end of its process, if it is dying.
_DYING_ALLOWANCE = 0.5
#: Seconds between two tries to start a child where the system refuses, or children die early, while others work.
_REST = 1.0
#: Seconds that an attempt may run before those that wait behind it are taken back.
_PATIENCE = 0.1


@dataclass(slots=True, kw_only=True)
class Desk:
    """What all slots of an executor share."""

    selector: selectors.BaseSelector
    pickles: Mapping[str, bytes]  #: ``{workflow_id: its steps}``
    environment: Mapping[str, str]  #: of children, on top of the program's
    settings: ChildSettings
    pump: Pump
    grace: float  #: seconds between SIGTERM and SIGKILL
    reports: list[AttemptReport]  #: where to put those of attempts that have ended
    begun: list[int] = field(default_factory=list)  #: tokens of those that have become the first of a queue
    waiting: deque[StepAssignment] = field(default_factory=deque)  #: in no child; those taken back come first
    blamed: set[tuple[str, str]] = field(default_factory=set)  #: (workflow_id, step) of who spoils children
    memory_watches: set[MemoryWatch] = field(default_factory=set)  #: of attempts that have a limit
    failed_starts: int = 0  #: children in a row that ended before they were ready


class Slot:
    """Room for one running assignment, the child in it, and what waits there."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.child: Child[FromChild] | None = None
        self.is_ready = False  #: whether the child has said so
        self.problem = ""  #: why the child ended before it was ready
        self.queue: deque[StepAssignment] = deque()  #: in the child, in its order; the first runs, or will
        self._has_new_first = False  #: and its times are not set yet
        self._unsent: list[StepAssignment] = []  #: the last ones of the queue, until they are flushed
        self._known: set[str] = set()  #: workflows that the child has
        self._last_token = 0  #: what the child has stamped until it begins the first of the queue
        self._followed: int | None = None  #: the last token that the child has reported, if another may follow that
        self._last_step: StepAssignment | None = None  #: what the child has run last
        self._served = 0  #: attempts that the child has reported
        self._verdict: Outcome | None = None  #: why the child is being ended by us
        self._close_by: float | None = None  #: when a child that was told to close is ended
        self._is_tainted = False  #: whether another child is to take the place of this one
        self._is_closing = False  #: whether no child is to come after this one
        self._failed_runs: set[str] = set()  #: of which the child begins nothing of what waits there
        self._wants_write = False
        self._listener = Listener(desk.selector, desk.pump, self)  #: to the child
        self._rests_until = 0.0  #: when to try again to start a child
        self._begin_by = 0.0  #: when the first of the queue must have begun
        self._due: float | None = None  #: when to look at the deadline of the first, or at the end of the child
        self._look_again: float | None = None  #: when to read what the child did not announce
        self._patient_until: float | None = None  #: then those behind the first are taken back; None if they were
        self._memory: MemoryWatch | None = None  #: of the first of the queue, if it has a limit
        self._memory_used: int | None = None  #: what the child is being ended for, if it is that
        #: whether its child died at work, or retired, so that a new one is likely to be needed
        self.wants_child = False

    @property
    def is_idle(self) -> bool:
        """Whether an assignment would begin as soon as it is here, or its child has started."""
        return not self.queue and self.is_usable

    @property
    def is_usable(self) -> bool:
        """Whether assignments can be sent to the child, or to one that ``start`` starts."""
        if self._verdict is not None or self._is_tainted:
            return False
        if self.child is None:
            return time.monotonic() >= self._rests_until
        return not (self.child.is_ending or self.child.line.has_ended)

    @property
    def is_changing(self) -> bool:
        """Whether its child is being replaced, so that an assignment may wait for the next one."""
        return self._is_tainted and not self._is_closing

    @property
    def rank(self) -> tuple[int, bool, bool]:
        """What is less where an assignment is likely to begin sooner."""
        return len(self.queue), not self.is_ready, self.child is None

    def room(self, depth: int) -> int:
        """Return how many more assignments it takes if ``depth`` may be in it while its child is quick with them."""
        if not self.is_usable:
            return 0
        is_slow = self._patient_until is None or time.monotonic() >= self._patient_until
        if not self.is_ready or (self.queue and is_slow):
            depth = 1
        if (most := self._desk.settings.max_steps) is not None:
            depth = min(depth, max(1, most - self._served))  # one more may come before we hear that the child is spent
        return max(0, depth - len(self.queue))

    def rest(self) -> None:
        """Be of no use for a while, because no child could be started."""
        self._due = self._rests_until = time.monotonic() + _REST

    def deadline(self) -> float | None:
        """Return when ``look`` must be called even if nothing comes in, in monotonic seconds."""
        behind = self._patient_until if len(self.queue) > 1 else None
        memory = None if self._memory is None else self._memory.due
        listener = self._listener
        times = (self._due, self._look_again, behind, memory, listener.due, listener.resume_at)
        return min((when for when in times if when is not None), default=None)

    # -- assignments --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a child.

        Raises:
            OSError: the system refuses.
        """
        self.is_ready = False
        self.problem = ""
        self.wants_child = False
        self._known = set()
        self._last_token = self._served = 0
        settings = msgspec.structs.replace(self._desk.settings, log_levels=LogLevels.current())
        self._listener = Listener(self._desk.selector, self._desk.pump, self)
        environment, show = self._desk.environment, self._listener.show
        self.child = child = Child(partial(child_main, settings), environment, FROM_CHILD, show)
        self._listener.output = child.output
        self._listener.listen()
        self._wants_write = False
        self._listen()
        self._desk.selector.register(child.exit_fd, selectors.EVENT_READ, (self, "exit"))

    def _listen(self) -> None:
        """Hear what comes through the pipe of the child, from now on or again."""
        assert self.child is not None
        if self.child.fileno() not in self._desk.selector.get_map():
            self._desk.selector.register(self.child.fileno(), self._pipe_events, (self, "pipe"))

    @property
    def _pipe_events(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._wants_write else 0)

    def put(self, assignment: StepAssignment) -> None:
        """Accept an assignment for the child, which gets it with the next ``flush``."""
        self.queue.append(assignment)
        self._unsent.append(assignment)
        if len(self.queue) == 1:
            self._first_changed(time.monotonic())

    def flush(self) -> None:
        """Hand what was accepted to the child, which begins it when it is done with what it has."""
        child = self.child
        if child is None or not self._unsent:
            return
        child.tickets.issue([assignment.token for assignment in self._unsent])
        for assignment in self._unsent:
            if assignment.workflow_id not in self._known:
                self._known.add(assignment.workflow_id)
                pickled = self._desk.pickles[assignment.workflow_id]
                child.channel.put(LoadWorkflow(assignment.workflow_id, pickled))
            child.channel.put(assignment)
        self._unsent.clear()
        self._watch()

    def _note_first(self) -> None:
        """Take note of another first of the queue: once for all reports that have come together."""
        if self._has_new_first:
            self._first_changed(time.monotonic())

    def _first_changed(self, now: float) -> None:
        """Set the times of the assignment that is the first of the queue now."""
        self._has_new_first = False
        first = self.queue[0] if self.queue else None
        if first is None:
            self._failed_runs.clear()
        elif first.instance_id not in self._failed_runs and first.follows in (None, self._followed):
            self._desk.begun.append(first.token)
        self._begin_by = now + _BEGINNING_ALLOWANCE
        self._due = None if first is None else min(now + (first.timeout or math.inf), self._begin_by)
        self._patient_until = now + _PATIENCE
        if self._memory is not None or (first is not None and first.memory_limit is not None):
            self._watch_memory(first, now)

    def take_back(self, count: int | None = None) -> None:
        """Put up to ``count`` assignments, oldest first, that the child has not begun back to the waiting ones.

        Default is all.
        """
        assert self.child is not None
        if not self.queue:
            return
        tokens = set(self.child.tickets.take_back(len(self.queue) if count is None else count))
        back = [assignment for assignment in self.queue if assignment.token in tokens]
        first = self.queue[0]
        self.queue = deque(assignment for assignment in self.queue if assignment.token not in tokens)
        self._desk.waiting.extendleft(reversed(back))
        self.child.channel.withdraw(lambda message: getattr(message, "token", None) in tokens)
        if first.token in tokens:
            self._first_changed(time.monotonic())

    # -- hearing from the child ---------------------------------------------------------------------------------------

    def on_event(self, what: str | int, events: int) -> None:
        """Act on a descriptor that is readable or writable."""
        if self.child is None:
            return  # its pipe and its exit were in the same batch
        if isinstance(what, int):
            self._listener.read(what, self._hear)
            return
        if what == "exit":
            self._advance()
        elif events & selectors.EVENT_READ:
            self._read()
        if events & selectors.EVENT_WRITE and self.child is not None:
            self._watch()

    def _watch(self) -> None:
        """Wait for the pipe to take more, exactly while there is something left to write."""
        child, selector = self.child, self._desk.selector
        assert child is not None
        try:
            wants = not child.channel.flush()
        except EncodingError as error:
            self._cannot_send(error)
            wants = True
        if wants != self._wants_write:
            self._wants_write = wants
            if child.fileno() in selector.get_map():
                selector.modify(child.fileno(), self._pipe_events, (self, "pipe"))

    def _cannot_send(self, error: EncodingError) -> None:
        """Fail an assignment that cannot be encoded, for a reason that nobody has thought of."""
        _log.error("an assignment cannot be sent to a child process: %s", error)
        self.take_back()  # with all after it, whose turn would never come: the tickets are in order
        for assignment in list(self._desk.waiting):
            if assignment is error.message:
                self._desk.waiting.remove(assignment)
                problem = NotPicklableError(f"what step {assignment.step_name!r} needs", str(error), "Send plain data.")
                self._report_end(assignment, Outcome.RAISED, problem, time.monotonic())

    def _hear(self) -> None:
        """Take in what the child has said by now, unless it has to wait."""
        if self.child is not None and not self.child.line.has_ended and self._listener.resume_at is None:
            self._read()

    def _read(self) -> None:
        child = self.child
        assert child is not None
        self._look_again = None
        messages = child.line.receive()
        is_garbled = child.line.is_garbled
        try:
            for message in messages:
                self._understand(message)
        except ProtocolError:
            is_garbled = True
        self._note_first()
        if self._look_again is not None:
            self._look_again = time.monotonic() + 1.5 * LATER if self.queue else None
        if is_garbled:
            # A step wrote over what it has to say. The child cannot be talked to any more.
            self._end(Outcome.LOST)
            self._unregister([child.fileno()])
            return
        if self._listener.resume_at is not None:
            self._unregister([child.fileno()])  # until what it logs was handed on
        if child.line.has_ended:
            self._unregister([child.fileno()])  # it would be readable for ever; the exit is still to come
            if not child.has_exited() and not child.is_ending:
                # The kernel closes the pipe of a dying process a moment before it tells of the death.
                self._due = time.monotonic() + _DYING_ALLOWANCE

    def _unregister(self, fds: Iterable[int]) -> None:
        for fd in fds:
            if fd in self._desk.selector.get_map():
                self._desk.selector.unregister(fd)

    def _understand(self, message: FromChild) -> None:
        if isinstance(message, AttemptReport):
            check_report(message)
            if (first := self._end_of_first(message.token)) is not None:
                self._take_report(message, first)
        elif isinstance(message, Printed):
            self._listener.expect(message.streams)
        elif isinstance(message, Logged):
            self._listener.log(message)
        elif isinstance(message, Untouched):
            if (first := self._end_of_first(message.token)) is not None:
                self._desk.reports.append(never_started(first))
                if self._is_tainted:
                    self._retire()
        elif isinstance(message, Spent):
            self._retire(message.fault)
        else:
            self.is_ready = True
            self._desk.failed_starts = 0

    def _end_of_first(self, token: int) -> StepAssignment | None:
        """Take the assignment of this token from the queue; None if its outcome was decided before."""
        queue = self.queue
        if not queue or queue[0].token != token or self._verdict is not None:
            return None
        self._has_new_first = True
        return queue.popleft()

    def _take_report(self, report: AttemptReport, first: StepAssignment) -> None:
        """Take in the report on an assignment that was the first of the queue."""
        assert self.child is not None
        self._last_token = report.token
        self._last_step = first
        self._served += 1
        self._followed = report.token if may_be_followed(report) else None
        seconds = duration_of(report)
        self._look_again = math.inf if may_be_heard_later(report, seconds) else None
        if (output := self._listener.finish(report.token, seconds)) or report.error is not None:
            self._desk.reports.append(explained(report, first, self.child.pid, output))
        else:
            self._desk.reports.append(report)
        if report.outcome is not Outcome.RETURNED:
            if stops_run(first, report):
                self._failed_runs.add(first.instance_id)
                self.child.channel.put(Heard(first.instance_id))
                self._watch()
            self._is_tainted |= asks_for_a_new_child(report)
        if self._is_tainted:
            self._retire()

    # -- time ---------------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Act on what is due at ``now``."""
        if now >= self._listener.due and self.child is not None:
            self._listener.listen()
        if self._listener.may_resume(now) and self.child is not None and not self.child.line.has_ended:
            self._listen()
        if self._look_again is not None and now >= self._look_again:
            self._read()
        if len(self.queue) > 1 and self._is_out_of_patience(now):
            self._read()
            if len(self.queue) > 1 and self._is_out_of_patience(now):
                self._stop_waiting(now)
        if self._due is not None and now >= self._due:
            self._time_is_up(now)
        if self._memory is not None and now >= self._memory.due:
            self._check_memory(self._memory, now)

    def _is_out_of_patience(self, now: float) -> bool:
        return self._patient_until is not None and now >= self._patient_until

    def _stop_waiting(self, now: float) -> None:
        """Take back what waits behind an attempt that takes long."""
        if self.child is not None and self.child.stamp.read().token == self._last_token:
            self._patient_until = now + _PATIENCE  # the first is still on its way there: it may be large
        elif all(each.follows is not None for each in itertools.islice(self.queue, 1, None)):
            self._patient_until = now + _PATIENCE  # what follows it cannot begin elsewhere
        else:
            self._patient_until = None
            self.take_back()

    def _time_is_up(self, now: float) -> None:
        child = self.child
        if child is None:
            self._due = None  # it has rested
        elif child.is_ending or child.has_exited():
            self._advance()
        elif child.line.has_ended:
            self._end(Outcome.LOST)  # it lives on without its pipe: nothing can come back from it
        elif self._close_by is not None:
            _log.warning(
                "child %d is killed, because it did not exit within %g s: a teardown takes longer, or a step has left "
                "a thread that goes on. Make such threads daemons, or end them.",
                child.pid,
                _CLOSING_GRACE,
            )
            self._end(Outcome.KILLED)
        elif self.queue:
            self._check_deadline(self.queue[0], now)
        else:
            self._due = None

    def _check_deadline(self, first: StepAssignment, now: float) -> None:
        assert self.child is not None
        stamp, timeout = self.child.stamp.read(), first.timeout
        if stamp.token == self._last_token:
            self._check_beginning(first, now)
            return
        if timeout is None:
            self._due = None
            return
        if stamp.token != first.token:
            deadline = now  # it has ended and the next has begun; or a step wrote over the stamp
        elif not stamp.started:
            deadline = min(now + timeout, stamp.picked_up + timeout + _LOADING_ALLOWANCE)
        else:
            deadline = stamp.started + timeout
        self._due = deadline
        if now < deadline:
            return
        self.take_back()  # then none of those behind it begins while it is judged
        self._read()  # a report that has come in by now was in time
        if self.queue and self.queue[0] is first:
            # With a stamp that makes no sense, no deadline could be kept any more.
            self._end(Outcome.TIMED_OUT if stamp.token == first.token else Outcome.LOST)

    def _check_beginning(self, first: StepAssignment, now: float) -> None:
        """Wait on for the child to begin, or have another child do it if this one is stopped or stuck."""
        if now < self._begin_by:
            # If it begins right now, it has until then.
            self._due = min(now + (first.timeout or math.inf), self._begin_by)
            return
        self.take_back()
        if self.queue and self.queue[0] is first:
            self._first_changed(now)  # it has the ticket: it begins at this very moment
        else:
            self._end(Outcome.LOST)

    def _retire(self, fault: str = "") -> None:
        """Let the child tear down its steps and exit as soon as it is idle; another one takes its place.

        Args:
            fault: what the last step has done to deserve it, the end of a sentence.
        """
        last = self._last_step
        if fault and last is not None and (last.workflow_id, last.step_name) not in self._desk.blamed:
            self._desk.blamed.add((last.workflow_id, last.step_name))
            _log.warning(
                "step %r %s. So its child process is replaced after each attempt, which takes a moment. Let the step "
                "end what it begins, or begin it in its setup(), which may leave things for all attempts.",
                last.step_name,
                fault,
            )
        self._is_tainted = True
        self._note_first()
        if fault and self.child is not None:
            self.child.list_started()
            self.child.channel.put(Listed())
            self._watch()
        self.take_back()
        if not self.queue and self._close_by is None:
            self._close()

    # -- memory -------------------------------------------------------------------------------------------------------

    def _watch_memory(self, first: StepAssignment | None, now: float) -> None:
        """Watch what an assignment uses, if it has a limit, and nothing else any more."""
        if self._memory is not None:
            self._memory.end()
            self._memory = None
        if first is not None and first.memory_limit is not None and self.child is not None:
            self._memory = MemoryWatch(self.child.pid, first.memory_limit, self._desk.memory_watches, now)

    def _check_memory(self, memory: MemoryWatch, now: float) -> None:
        """End the child if what it has begun uses too much."""
        assert self.child is not None
        first = self.queue[0]
        if self.child.stamp.read().token != first.token:
            memory.wait(now)
            return
        used = memory.look()
        if used <= memory.limit or self._verdict is not None:
            return
        self.take_back()
        self._read()  # if it has ended by now, it has ended
        if self.queue and self.queue[0] is first and self._verdict is None:
            self._memory_used = used
            self._end(Outcome.LOST, grace=0.0)  # in that time it could take what all others need

    # -- the end of a child -------------------------------------------------------------------------------------------

    def kill(self, token: int) -> None:
        """End the child if it has begun this assignment; if not, put it back to the waiting ones."""
        self.take_back()
        self._read()  # what was before it may have ended
        if any(assignment.token == token for assignment in self.queue):
            self._end(Outcome.KILLED)

    def close(self) -> None:
        """Let an idle child tear down its steps and exit, end another; both go on in ``on_event`` and ``look``."""
        self._is_closing = True
        if self.child is None:
            return
        self.take_back()
        self._read()  # what has ended by now has ended
        if self.queue or not self.is_ready:
            self._close_by = time.monotonic()
            self._end(Outcome.KILLED)
        elif not self.child.is_ending:
            self._close()

    def _close(self) -> None:
        """Tell an idle child to exit."""
        assert self.child is not None
        self._due = self._close_by = time.monotonic() + _CLOSING_GRACE
        self.child.channel.put(Close())
        self._watch()

    def _end(self, verdict: Outcome, grace: float | None = None) -> None:
        if self._verdict is not None:
            return
        assert self.child is not None
        self.take_back()
        self._verdict = verdict
        self._listener.shows = False
        self._due = now = time.monotonic()
        self.child.end(now, self._desk.grace if grace is None else grace)

    def _advance(self) -> None:
        """Bring the end of the child forward, and settle its assignment once nothing is left of it."""
        child = self.child
        assert child is not None
        fds = (child.fileno(), child.exit_fd)
        if child.has_exited():
            self.take_back()
            self._read()  # drain, then judge
            self._unregister(fds)
            self._listener.stop()
            self._listener.hear_out()
        stamp = child.stamp.read()  # the memory is given back with the child
        self._due = child.advance(time.monotonic())
        if not child.is_gone:
            return
        self._unregister(fds)  # it may have been given up while it lives
        self._listener.stop()
        self.child = None
        was_ready, self.is_ready = self.is_ready, False
        if not was_ready and self._verdict in (None, Outcome.LOST) and self._close_by is None:
            slow = f", after {_BEGINNING_ALLOWANCE:.0f} s" if self._verdict else ""
            self.problem = f"it ended with exit code {child.returncode} before it was ready{slow}"
        self._settle(child, stamp)
        if self._is_tainted:
            self._is_tainted, self._close_by, self.wants_child = False, None, not self._is_closing

    def _settle(self, child: Child[FromChild], stamp: StampReading) -> None:
        """Judge what the dead child had begun, and put back what it had not."""
        verdict, self._verdict = self._verdict, None
        used, self._memory_used = self._memory_used, None
        self._watch_memory(None, 0.0)
        left, self.queue = list(self.queue), deque()
        self._unsent.clear()
        self._due = self._look_again = None
        token = stamp.token
        started = stamp.picked_up if token != self._last_token else None
        if left and (started is not None or verdict is Outcome.KILLED):
            first = left.pop(0)
            error = what_ended(first, verdict, child.pid, child.returncode, used, phase_of(stamp, first))
            self._report_end(first, verdict or Outcome.LOST, error, started, child.pid, self._listener.last_words)
            self.wants_child = self._close_by is None
        while token in [assignment.token for assignment in left]:
            # A step wrote over what its child has to say, and what came after it went unheard: not the doing of these.
            innocent = left.pop(0)
            self._report_end(innocent, Outcome.KILLED, killed(innocent), started)
        self._desk.waiting.extendleft(reversed(left))

    def _report_end(
        self,
        assignment: StepAssignment,
        outcome: Outcome,
        error: FuselineError,
        started: float | None,
        pid: int | None = None,
        output: str = "",
    ) -> None:
        report = AttemptReport(token=assignment.token, outcome=outcome, error=encode_error(error), started=started)
        self._desk.reports.append(explained(report, assignment, pid, output))
