"""LokyExecutor: a pool of child processes that can be killed one by one.

::

                 ┌ slot ── pipe ── child        assignments out, reports back
    executor ────┼ slot ── pipe ── child        each child leads a process group of its own
    (one thread) └ slot             (none yet)  a child starts when an assignment needs it
         └──────── guardian                     kills the groups if this program dies

Nothing is shared between slots: no queue, no lock, no pipe. So whatever happens to one child, the others do not notice.

The way of a slot, and who says that an attempt is over::

    BOOTING ──"ready"──▶ serving ──submit──▶ busy ──"ended"──▶ serving     the child says so
                                              │──its process ends──▶ ending ──gone──▶ LOST
                                              │──deadline──────────▶ ending ──gone──▶ TIMED_OUT
                                              └──kill()────────────▶ ending ──gone──▶ KILLED

The report of an attempt whose child ended appears only when nothing is left of the child's process group, so a next
attempt never runs beside it. Before an attempt is called lost or timed out, its pipe is read to the end: a report that
is in there wins.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable, Mapping

from fuseline.attempt import Hosted
from fuseline.errors import StepCrashed, StepError, StepLost, StepTimedOut
from fuseline.executors.base import Executor, in_use, never_started, usable_cpus
from fuseline.executors.pickling import pickle_hosted
from fuseline.messages import AttemptReport, Outcome, StepAssignment
from fuseline.processes import guardian
from fuseline.processes.channel import Message, ProtocolError
from fuseline.processes.child import Child
from fuseline.values import encode_error
from fuseline.worker import child_main, pack_assignment, unpack_report

__all__ = ["LokyExecutor"]

#: Children in a row that may end before they are ready; after that, no child will ever start here.
_MAX_FAILED_STARTS = 3
#: Seconds that loading the code of a workflow may take in a child, on top of the timeout of the step that waits for it.
_LOADING_ALLOWANCE = 60.0
#: Seconds in which a child that is told to close may tear down its steps and exit by itself.
_CLOSING_GRACE = 5.0
#: Seconds between the end of a child's pipe and the end of its process, if it is dying.
_DYING_ALLOWANCE = 0.5
#: Libraries that would start a thread per CPU in every child; they read these when they are imported.
_THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class _Slot:
    """Room for one running assignment, and the child in it."""

    __slots__ = ("assignment", "child", "close_by", "is_ready", "known", "last_token", "verdict", "wants_write")

    def __init__(self) -> None:
        self.child: Child | None = None
        self.is_ready = False  #: whether the child has said so
        self.known: set[str] = set()  #: workflows that the child has
        self.assignment: StepAssignment | None = None
        self.last_token = 0  #: what the child has stamped until it picks the assignment up
        self.verdict: Outcome | None = None  #: why the child is being ended by us
        self.close_by: float | None = None  #: when a child that was told to close is ended
        self.wants_write = False

    @property
    def is_free(self) -> bool:
        if self.assignment is not None or self.verdict is not None:
            return False
        return self.child is None or not (self.child.is_ending or self.child.channel.has_ended)


class LokyExecutor(Executor):
    """Runs each step in a child process started through loky. A timeout kills, a crash ends one attempt.

    Args:
        processes: children at most; default is one per usable CPU.
        grace: seconds between SIGTERM and SIGKILL.

    Children inherit the environment of the program. Thread caps (``OMP_NUM_THREADS`` and its kin) that it does not set
    are set for them, so that all children together use each CPU once.
    """

    name = "loky"
    kills = True
    isolates_crashes = True
    pickles = True

    def __init__(self, processes: int | None = None, *, grace: float = 0.5) -> None:
        super().__init__(processes)
        self._grace = grace
        self._pickles: dict[str, bytes] = {}
        self._slots: list[_Slot] = []
        self._by_token: dict[int, _Slot] = {}
        self._timers: dict[_Slot, float] = {}
        self._reports: list[AttemptReport] = []
        self._failed_starts = 0
        self._selector: selectors.BaseSelector | None = None
        self._environment: dict[str, str] = {}

    def start(self, workflows: Mapping[str, Hosted]) -> None:
        if self._selector is not None:
            raise in_use()
        self._pickles = {name: pickle_hosted(name, hosted) for name, hosted in workflows.items()}
        self._environment = _thread_caps(self.processes)
        self._failed_starts = 0
        self._selector = selectors.DefaultSelector()
        self._slots = [_Slot() for _ in range(self.processes)]
        try:
            guardian.acquire()
        except BaseException:
            self._selector.close()
            self._selector = None
            raise

    def fileno(self) -> int:
        assert self._selector is not None, "start() comes first"
        fd: int = self._selector.fileno()  # type: ignore[attr-defined]  # epoll and kqueue have one
        return fd

    def free_slots(self) -> int:
        return sum(slot.is_free for slot in self._slots)

    def deadline(self) -> float | None:
        if self._reports:
            return 0.0
        return min(self._timers.values(), default=None)

    # -- assignments --------------------------------------------------------------------------------------------------

    def submit(self, assignment: StepAssignment) -> None:
        slot = self._free_slot()
        slot.assignment = assignment
        self._by_token[assignment.token] = slot
        if slot.child is None:
            self._start_child(slot)
        else:
            self._send(slot)

    def _free_slot(self) -> _Slot:
        """Return the best slot without an assignment: one with a child that is ready, or starting, or none."""
        free = [slot for slot in self._slots if slot.is_free]
        return max(free, key=lambda slot: (slot.is_ready, slot.child is not None))

    def _send(self, slot: _Slot) -> None:
        assignment, child = slot.assignment, slot.child
        assert assignment is not None
        assert child is not None
        if assignment.workflow_id not in slot.known:
            slot.known.add(assignment.workflow_id)
            child.channel.send(["workflow", assignment.workflow_id], [self._pickles[assignment.workflow_id]])
        child.channel.send(*pack_assignment(assignment))
        self._watch(slot)
        if assignment.timeout is not None:
            self._timers[slot] = time.monotonic() + assignment.timeout

    def kill(self, token: int) -> None:
        slot = self._by_token.get(token)
        if slot is not None and slot.verdict is None:
            self._end(slot, Outcome.KILLED)

    # -- children -----------------------------------------------------------------------------------------------------

    def _start_child(self, slot: _Slot) -> None:
        slot.is_ready = False
        slot.known = set()
        slot.verdict = None
        slot.last_token = 0
        try:
            slot.child = child = Child(child_main, self._environment)
        except OSError as error:
            self._start_failed(slot, f"the system refused a process: {error}", final=True)
            return
        assert self._selector is not None
        self._selector.register(child.fileno(), selectors.EVENT_READ, (slot, "pipe"))
        self._selector.register(child.exit_fd, selectors.EVENT_READ, (slot, "exit"))
        slot.wants_write = False
        if slot.assignment is not None:
            self._send(slot)

    def _start_failed(self, slot: _Slot, reason: str, *, final: bool = False) -> None:
        """Try again for the assignment at hand, or give it up with the reason."""
        self._failed_starts += 1
        if slot.assignment is None:
            return
        if not final and self._failed_starts < _MAX_FAILED_STARTS:
            self._start_child(slot)
            return
        lost = StepLost(
            f"step {slot.assignment.step_name!r} of run {slot.assignment.instance_id} could not be run, because no "
            f"child process starts here: {reason}. What it printed on standard error may tell more.",
            step_name=slot.assignment.step_name,
            instance_id=slot.assignment.instance_id,
            attempt=slot.assignment.attempt,
        )
        self._settle(slot, Outcome.LOST, lost, started=time.monotonic())

    def _watch(self, slot: _Slot) -> None:
        """Wait for the pipe to take more, exactly while there is something left to write."""
        child = slot.child
        assert child is not None
        assert self._selector is not None
        wants = not child.channel.flush()
        if wants != slot.wants_write and child.fileno() in self._selector.get_map():
            slot.wants_write = wants
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wants else 0)
            self._selector.modify(child.fileno(), events, (slot, "pipe"))

    def _end(self, slot: _Slot, verdict: Outcome) -> None:
        assert slot.child is not None
        slot.verdict = verdict
        now = time.monotonic()
        slot.child.end(now, self._grace)
        self._timers[slot] = now

    # -- the loop -----------------------------------------------------------------------------------------------------

    def poll(self) -> list[AttemptReport]:
        if self._selector is not None:
            # What has come in is looked at before any deadline: a report that was in time counts.
            for key, events in self._selector.select(0):
                slot, what = key.data
                if slot.child is None:
                    continue  # its pipe and its exit were in the same batch
                if what == "exit":
                    self._advance(slot)
                elif events & selectors.EVENT_READ:
                    self._read(slot)
                if events & selectors.EVENT_WRITE and slot.child is not None:
                    self._watch(slot)
            now = time.monotonic()
            for slot in [slot for slot, when in self._timers.items() if when <= now]:
                self._time_is_up(slot, now)
        reports, self._reports = self._reports, []
        return reports

    def _read(self, slot: _Slot) -> None:
        assert slot.child is not None
        try:
            messages = slot.child.channel.receive()
            for message in messages:
                self._understand(slot, message)
        except (ProtocolError, ValueError, TypeError, IndexError, KeyError):
            # A step wrote into the pipe. The child cannot be talked to any more.
            if slot.verdict is None:
                self._end(slot, Outcome.LOST)
            self._mute(slot)
            return
        if slot.child.channel.has_ended:
            self._mute(slot)
            if not slot.child.has_exited() and not slot.child.is_ending:
                # The kernel closes the pipe of a dying process a moment before it tells of the death.
                self._timers[slot] = time.monotonic() + _DYING_ALLOWANCE

    def _mute(self, slot: _Slot) -> None:
        """Stop listening to a pipe that has ended, which would be readable for ever; the exit is still to come."""
        assert slot.child is not None
        self._unregister([slot.child.fileno()])

    def _unregister(self, fds: Iterable[int]) -> None:
        assert self._selector is not None
        for fd in fds:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)

    def _understand(self, slot: _Slot, message: Message) -> None:
        header, blobs = message
        if header[0] == "ready":
            slot.is_ready = True
            self._failed_starts = 0
            return
        report = unpack_report(header, blobs)
        if slot.assignment is None or slot.assignment.token != report.token or slot.verdict is not None:
            return  # its outcome was decided before
        del self._by_token[report.token]
        slot.assignment = None
        slot.last_token = report.token
        self._timers.pop(slot, None)
        self._reports.append(report)

    def _time_is_up(self, slot: _Slot, now: float) -> None:
        assert slot.child is not None
        if slot.child.is_ending or slot.child.has_exited():
            self._advance(slot)
        elif slot.child.channel.has_ended:
            self._end(slot, Outcome.LOST)  # it lives on without its pipe: nothing can come back from it
        elif slot.close_by is not None:
            self._end(slot, Outcome.KILLED)
        elif slot.assignment is not None and slot.assignment.timeout is not None:
            timeout = slot.assignment.timeout
            stamp = slot.child.stamp.read()
            if stamp.token == slot.last_token:
                deadline = now + timeout  # still queued; if it starts right now, it has until then
            elif stamp.token != slot.assignment.token:
                self._end(slot, Outcome.LOST)  # a step wrote over the stamp: no deadline could be kept any more
                return
            elif not stamp.started:
                deadline = min(now + timeout, stamp.picked_up + timeout + _LOADING_ALLOWANCE)
            else:
                deadline = stamp.started + timeout
            self._timers[slot] = deadline
            if now >= deadline:
                self._read(slot)  # a report that has come in by now was in time
                if slot.assignment is not None and slot.verdict is None:
                    self._end(slot, Outcome.TIMED_OUT)

    def _advance(self, slot: _Slot) -> None:
        """Bring the end of a child forward, and settle its assignment once nothing is left of it."""
        child = slot.child
        assert child is not None
        assert self._selector is not None
        if child.has_exited():
            self._read(slot)  # drain, then judge
        fds = (child.fileno(), child.exit_fd)
        if child.has_exited():
            self._unregister(fds)
        stamp = child.stamp.read()
        again = child.advance(time.monotonic())
        if not child.is_gone:
            if again is None:
                self._timers.pop(slot, None)
            else:
                self._timers[slot] = again
            return
        self._timers.pop(slot, None)
        self._unregister(fds)  # it may have been given up while it lives
        slot.child = None
        was_ready, slot.is_ready = slot.is_ready, False
        if slot.close_by is None and not was_ready and slot.verdict is None:
            self._start_failed(slot, f"it ended with exit code {child.returncode} before it was ready")
            return
        had_work = slot.assignment is not None
        self._settle_dead(slot, child.returncode, stamp.token, stamp.picked_up)
        if had_work and slot.close_by is None:
            self._start_child(slot)  # at once: whoever waits for the slot should not wait for a start too

    def _settle_dead(self, slot: _Slot, returncode: int | None, token: int, picked_up: float) -> None:
        assignment, verdict = slot.assignment, slot.verdict
        slot.verdict = None
        if assignment is None:
            return
        whom = {
            "step_name": assignment.step_name,
            "instance_id": assignment.instance_id,
            "attempt": assignment.attempt,
        }
        error: StepError
        if verdict is Outcome.TIMED_OUT:
            assert assignment.timeout is not None
            error = StepTimedOut(timeout=assignment.timeout, killed=True, **whom)  # type: ignore[arg-type]
        elif token == slot.last_token:
            self._settle(slot, verdict or Outcome.LOST, None, started=None)  # the child has never seen it
            return
        elif verdict is Outcome.LOST:
            how = "closed the pipe of its process, or wrote into it, so that nothing could be heard from it any more"
            error = StepCrashed(how=how, **whom)  # type: ignore[arg-type]
        elif verdict is Outcome.KILLED:
            error = StepLost(f"step {assignment.step_name!r} was killed because it was cancelled.", **whom)  # type: ignore[arg-type]
        else:
            error = StepCrashed.from_returncode(returncode, **whom)  # type: ignore[arg-type]
        self._settle(slot, verdict or Outcome.LOST, error, started=picked_up)

    def _settle(self, slot: _Slot, outcome: Outcome, error: StepError | None, started: float | None) -> None:
        assignment = slot.assignment
        assert assignment is not None
        slot.assignment = None
        del self._by_token[assignment.token]
        info = never_started(assignment).error if error is None else encode_error(error)
        self._reports.append(AttemptReport(token=assignment.token, outcome=outcome, error=info, started=started))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._selector is None:
            return
        now = time.monotonic()
        for slot in self._slots:
            child = slot.child
            if child is None:
                continue
            slot.close_by = now + _CLOSING_GRACE
            if slot.assignment is not None or not slot.is_ready:
                if slot.verdict is None:
                    self._end(slot, Outcome.KILLED)
            elif not child.is_ending:
                child.channel.send(["close"])
                self._timers[slot] = slot.close_by
        kept: list[AttemptReport] = []
        while any(slot.child is not None for slot in self._slots):
            kept += self.poll()
            until = self.deadline()
            wait = None if until is None else max(0.0, until - time.monotonic())
            if any(slot.child is not None for slot in self._slots):
                self._selector.select(wait)
        self._reports = kept + self._reports
        guardian.release()
        self._selector.close()
        self._selector = None
        self._slots = []


def _thread_caps(processes: int) -> dict[str, str]:
    import os

    share = str(max(1, usable_cpus() // processes))
    return {name: share for name in _THREAD_CAPS if name not in os.environ}
