"""LokyExecutor: a pool of child processes that can be killed one by one.

::

                 ┌ slot ── pipe ── child        assignments out, reports back
    executor ────┼ slot ── pipe ── child        each child leads a process group of its own
    (one thread) └ slot             (none yet)  a child starts when an assignment needs it
         └──────── guardian                     kills the groups if this program dies

Nothing is shared between slots: no queue, no lock, no pipe. So whatever happens to one child, the others do not notice.

While steps are short, a child has its next assignment before it is done with the one before, so that it need not wait
to be told. What waits in a child goes elsewhere when another slot is idle, when the one before it takes long, or when
the child ends; it is never begun twice.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress

import msgspec

from fuseline.attempt import Hosted
from fuseline.encoding import encode_error
from fuseline.errors import StepLost, WorkflowError
from fuseline.executors.base import Executor, in_use, never_started, usable_cpus
from fuseline.executors.pace import Pace
from fuseline.executors.pickling import pickle_hosted
from fuseline.executors.pump import Pump
from fuseline.executors.slot import Desk, Slot
from fuseline.executors.verdict import killed
from fuseline.messages import AttemptReport, Outcome, StepAssignment
from fuseline.processes import guardian
from fuseline.worker.loading import check_not_loading
from fuseline.worker.messages import ChildSettings

__all__ = ["LokyExecutor"]

#: Children in a row that may end before they are ready; after that, work is left to others, or given up.
_MAX_FAILED_STARTS = 3
#: Reports that one ``poll`` returns at most: few enough for children not to run dry while the engine acts on them.
_AT_ONCE = 64
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


class LokyExecutor(Executor):
    """Runs each step in a child process started through loky. A timeout kills, a crash ends one attempt.

    Args:
        processes: children at most; default is one per usable CPU.
        grace: seconds between SIGTERM and SIGKILL.
        isolation: whether each step finds its child process as the one before it has found it. What an attempt changes
            is undone (working directory, umask, environment, signal handlers and timers, ``sys.path``, standard
            streams, resource limits), and a child in which it leaves a thread, a descriptor or a process is replaced.
            What a ``setup()`` changes or leaves stays, for the attempts of its step.
        seeds: whether ``random`` and ``numpy.random`` are seeded for each attempt, from ``current_run().seed``.
        max_steps_per_child: attempts after which a child is replaced; None for any number.
        max_child_memory: bytes of resident memory after an attempt, above which its child is replaced; None for any.

    Raises:
        WorkflowError: one of the numbers makes no sense.

    Children inherit the environment of the program. Thread caps (``OMP_NUM_THREADS`` and its kin) that it does not set
    are set for them, so that all children together use each CPU once.
    """

    name = "loky"
    kills = True
    isolates_crashes = True
    limits_memory = True
    pickles = True
    chains = True

    def __init__(
        self,
        processes: int | None = None,
        *,
        grace: float = 0.5,
        isolation: bool = True,
        seeds: bool = True,
        max_steps_per_child: int | None = None,
        max_child_memory: int | None = None,
    ) -> None:
        super().__init__(processes)
        self._grace = grace
        self._settings = ChildSettings(
            isolation=isolation,
            seeds=seeds,
            max_steps=_check_count(max_steps_per_child, "max_steps_per_child"),
            max_memory=_check_count(max_child_memory, "max_child_memory"),
        )
        self._desk: Desk | None = None
        self._slots: list[Slot] = []
        self._pace = Pace()
        self._had_idle = False  #: whether the last ``poll`` has left a slot idle, that nothing was submitted for since
        self._reports: list[AttemptReport] = []  #: those that ``poll`` has not returned yet
        self._seen = 0  #: how many of them it has looked at; all of these have ``RETURNED``

    def start(self, workflows: Mapping[str, Hosted]) -> None:
        if self._desk is not None:
            raise in_use()
        check_not_loading()
        pickles = {name: pickle_hosted(name, hosted) for name, hosted in workflows.items()}
        with ExitStack() as undo:
            selector = undo.enter_context(selectors.DefaultSelector())
            guardian.acquire()
            undo.callback(guardian.release)
            if self.workplace is not None and self.workplace.presence is not None:
                guardian.show(self.workplace.presence)
            undo.pop_all()
        self._desk = Desk(
            selector=selector,
            pickles=pickles,
            environment=_thread_caps(self.processes),
            settings=msgspec.structs.replace(self._settings, workplace=self.workplace),
            pump=Pump(),
            grace=self._grace,
            reports=self._reports,
        )
        self._slots = [Slot(self._desk) for _ in range(self.processes)]
        self._pace = Pace()
        self._reports.clear()
        self._seen = 0

    @property
    def _open_desk(self) -> Desk:
        assert self._desk is not None, "start() comes first"
        return self._desk

    def fileno(self) -> int:
        fd: int = self._open_desk.selector.fileno()  # type: ignore[attr-defined]  # epoll and kqueue have one
        return fd

    def free_slots(self) -> int:
        depth = self._pace.depth
        room = sum(1 if slot.is_changing else slot.room(depth) for slot in self._slots)
        return max(0, room - len(self._open_desk.waiting) - len(self._reports))

    def deadline(self) -> float | None:
        if self._reports or (self._had_idle and self._longest_queue() is not None):
            return 0.0
        if self._open_desk.waiting and any(slot.room(self._pace.depth) for slot in self._slots):
            return 0.0
        return self._next_look()

    def _next_look(self) -> float | None:
        return min((when for slot in self._slots if (when := slot.deadline()) is not None), default=None)

    # -- handing out --------------------------------------------------------------------------------------------------

    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        self._open_desk.waiting.extend(assignments)
        self._hand_out()

    def _hand_out(self) -> None:
        """Send what waits to slots with room: to an idle one first, then to one with little in it."""
        waiting = self._open_desk.waiting
        if not waiting:
            return
        self._return_orphans()
        shortest = self._rooms()
        while waiting and shortest:
            _, number, room = heapq.heappop(shortest)
            slot = self._slots[number]
            try:
                if slot.child is None:
                    slot.start()
            except OSError as error:
                self._no_child(slot, f"the system refused a process: {error}")
                shortest = self._rooms()
                continue
            # Some at once, but no more than half of its share: so all get the same in the end.
            for _ in range(min(room, max(1, len(waiting) // (2 * len(shortest) + 2)))):
                slot.put(waiting.popleft())
                room -= 1
                is_chain = bool(waiting) and waiting[0].follows is not None
                while waiting and waiting[0].follows is not None:
                    slot.put(waiting.popleft())
                    room -= 1
                if is_chain or room <= 0 or not waiting:
                    break
            if room > 0:
                heapq.heappush(shortest, (slot.rank, number, room))
        for slot in self._slots:
            slot.flush()

    def _rooms(self) -> list[tuple[tuple[int, bool, bool], int, int]]:
        """Return a heap of the slots that have room, the shortest queue first: (rank, number of the slot, its room)."""
        depth = self._pace.depth
        rooms = [(slot.rank, number, slot.room(depth)) for number, slot in enumerate(self._slots)]
        return sorted(each for each in rooms if each[2])

    def _return_orphans(self) -> None:
        """Give back what follows an assignment that is elsewhere: its result is not here."""
        waiting = self._open_desk.waiting
        before = None
        for assignment in list(waiting):
            if assignment.follows in (None, before):
                before = assignment.token
            else:
                waiting.remove(assignment)
                self._reports.append(never_started(assignment))

    def _share(self) -> None:
        """Let idle slots take over what waits in others. The engine had its chance to submit something else."""
        for slot in self._slots:
            if slot.is_idle and not self._open_desk.waiting:
                longest = self._longest_queue()
                if longest is None:
                    return
                longest.take_back(self._spare(longest))
                self._hand_out()

    def _longest_queue(self) -> Slot | None:
        """Return the slot with most in it that would begin sooner elsewhere, or None."""
        sparing = [slot for slot in self._slots if self._spare(slot)]
        return max(sparing, key=lambda slot: len(slot.queue), default=None)

    def _spare(self, slot: Slot) -> int:
        """Return how many of the next assignments in a slot could begin elsewhere: one and those that follow it, or 0.

        The first in it is not one of them, unless it waits for its child to start while another child is there.
        """
        queue = slot.queue
        start = 1 if slot.is_ready or not any(other.is_idle and other.is_ready for other in self._slots) else 0
        if len(queue) <= start or queue[start].follows is not None:
            return 0
        following = itertools.takewhile(lambda each: each.follows is not None, itertools.islice(queue, start + 1, None))
        return 1 + sum(1 for _ in following)

    def begun(self) -> Sequence[int]:
        desk = self._open_desk
        tokens, desk.begun = desk.begun, []
        return tokens

    def recall(self, tokens: Collection[int] | None = None) -> None:
        desk = self._open_desk
        for slot in self._slots:
            has_them = tokens is None or any(assignment.token in tokens for assignment in slot.queue)
            if slot.child is not None and has_them:
                slot.take_back()
        for assignment in list(desk.waiting):
            if tokens is None or assignment.token in tokens:
                desk.waiting.remove(assignment)
                self._reports.append(never_started(assignment))
        self._hand_out()

    def kill(self, token: int) -> None:
        for slot in self._slots:
            if any(assignment.token == token for assignment in slot.queue):
                slot.kill(token)
        desk = self._open_desk
        for assignment in desk.waiting:
            if assignment.token == token:
                desk.waiting.remove(assignment)
                self._reports.append(
                    AttemptReport(token=token, outcome=Outcome.KILLED, error=encode_error(killed(assignment)))
                )
                break
        self._hand_out()

    # -- children -----------------------------------------------------------------------------------------------------

    def _start_failed(self, slot: Slot) -> None:
        """Try again with the next child, but not for ever."""
        reason, slot.problem = slot.problem, ""
        self._open_desk.failed_starts += 1
        if self._open_desk.failed_starts >= _MAX_FAILED_STARTS:
            self._no_child(slot, reason)

    def _no_child(self, slot: Slot, reason: str) -> None:
        """Leave the work to other slots; if they have no child either, report the next assignment as lost."""
        desk = self._open_desk
        if any(other.child is not None for other in self._slots if other is not slot):
            slot.rest()
            return
        if not desk.waiting:
            return
        assignment = desk.waiting.popleft()
        lost = StepLost(
            f"step {assignment.step_name!r} of run {assignment.instance_id} could not be run, because no "
            f"child process starts here: {reason}. What it printed on standard error may tell more.",
            step_name=assignment.step_name,
            instance_id=assignment.instance_id,
            attempt=assignment.attempt,
        )
        self._reports.append(
            AttemptReport(
                token=assignment.token, outcome=Outcome.LOST, error=encode_error(lost), started=time.monotonic()
            )
        )

    # -- the loop -----------------------------------------------------------------------------------------------------

    def poll(self) -> list[AttemptReport]:
        if self._desk is None:
            return self._take(None)
        if self._had_idle:
            self._share()
        self._hear()
        known = len(self._reports)
        fresh = self._reports[self._seen :]
        self._pace.note(fresh)
        all_well = all(report.outcome is Outcome.RETURNED for report in fresh)
        if all_well:
            self._hand_out()  # else what waits may not be wanted any more, once the failure is known: at once
        self._had_idle = any(slot.is_idle for slot in self._slots)
        reports = self._take(_AT_ONCE if all_well else None)
        self._seen = max(0, known - len(reports))
        return reports

    def _take(self, count: int | None) -> list[AttemptReport]:
        """Take the first reports, or all, of those that were not returned yet."""
        reports = self._reports[:count]
        del self._reports[:count]
        return reports

    def _hear(self) -> None:
        """Act on all that has come in, then on all that is due: a report that was in time counts."""
        for key, events in self._open_desk.selector.select(0):
            slot, what = key.data
            slot.on_event(what, events)
        now = time.monotonic()
        for slot in self._slots:
            slot.look(now)
            if slot.problem:
                self._start_failed(slot)
            if slot.wants_child:
                with suppress(OSError):  # then it will be tried again when the child is needed
                    slot.start()

    def flush(self) -> None:
        if self._desk is not None:
            self._desk.pump.flush()

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._desk is None:
            return
        desk = self._desk
        for slot in self._slots:
            slot.close()
        while any(slot.child is not None for slot in self._slots):
            self._hear()
            if any(slot.child is not None for slot in self._slots):
                until = self._next_look()
                desk.selector.select(None if until is None else max(0.0, until - time.monotonic()))
        self._reports += map(never_started, desk.waiting)
        if (workplace := desk.settings.workplace) is not None and workplace.presence is not None:
            guardian.hide(workplace.presence)
        guardian.release()
        desk.pump.close()
        desk.selector.close()
        self._desk = None
        self._slots = []


def _thread_caps(processes: int) -> dict[str, str]:
    share = str(max(1, usable_cpus() // processes))
    return {name: share for name in _THREAD_CAPS if name not in os.environ}


def _check_count(value: int | None, name: str) -> int | None:
    """Return ``value``.

    Raises:
        WorkflowError: it is neither None nor a whole number of 1 or more.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise WorkflowError(f"{name}={value!r}: give a whole number of 1 or more, or None for no limit.")
    return value
