"""How far some runs are: told by the events of their broker, whoever works on them.

A thread reads the events. It begins before the runs are dispatched, so that none is missed, and is told later which of
all the runs in the store are meant. What happens while a new broker takes the place of one that was killed is told to
nobody; so the thread also looks, each second, whether the next of the runs has ended unheard.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from fuseline.broker.base import Broker, RunEvent
from fuseline.errors import FuselineError
from fuseline.states import State

__all__ = ["Follower", "Tally"]

_DONE = frozenset({State.SUCCEEDED, State.SKIPPED})
#: Seconds between two looks whether runs have ended unheard, at least, ...
_LOOK = 1.0
#: ... and how many times as long as a look has taken: the record of a large run is large.
_REST = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many steps, or runs, went which way."""

    done: int = 0
    failed: int = 0
    retried: int = 0  #: tries that failed and were followed by another, always of steps
    cancelled: int = 0


class Follower:
    """Counts what becomes of runs. Use it in a ``with`` statement.

    Args:
        on_change: called in the thread, with the tallies of steps and of runs.
        on_end: called in the thread when all the runs have ended, or when nothing more can be heard of them.
        state_of: returns the state of a run, to look for ends that were not heard of; None for a broker that cannot be
            started anew.
    """

    def __init__(
        self,
        broker: Broker,
        on_change: Callable[[Tally, Tally], None],
        on_end: Callable[[], None] = lambda: None,
        state_of: Callable[[str], State] | None = None,
    ) -> None:
        self.steps = Tally()
        self.runs = Tally()
        self._on_change = on_change
        self._on_end = on_end
        self._state_of = state_of
        self._look_at = time.monotonic() + _LOOK
        self._is_closed = False
        self._lock = threading.Lock()
        self._waiting: set[str] | None = None  #: runs that have not ended; None if it is not known yet which are meant
        self._early: list[RunEvent] = []
        self._stream = broker.events()
        self._thread = threading.Thread(target=self._read, name="fuseline-follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        self._stream.close()
        self._thread.join()

    def expect(self, instance_ids: Iterable[str], *, steps_done: int = 0) -> None:
        """Say which runs are meant.

        Args:
            steps_done: of their steps, before the stream of events began.
        """
        with self._lock:
            self._waiting = set(instance_ids)
            self.steps = Tally(done=steps_done)
            early, self._early = self._early, []
            for event in early:
                self._count(event)

    def catch_up(self, state_of: Callable[[str], State]) -> None:
        """Count ends that were not heard of, because the broker was started anew meanwhile.

        Asks for one run that has not ended, at most, however many there are.

        Args:
            state_of: returns the state of a run.
        """
        with self._lock:
            waiting = sorted(self._waiting or ())
        for instance_id in waiting:
            if not (state := state_of(instance_id)).is_settled:
                return  # the ends after this one are looked for when it has ended
            with self._lock:
                self._count(RunEvent(instance_id=instance_id, state=state, at=0.0))

    def _read(self) -> None:
        try:
            while not self._is_closed:
                event = self._stream.next_event(None if self._state_of is None else _LOOK)
                if event is not None:
                    self._take(event)
                elif self._state_of is None:
                    return  # the stream has ended
                if self._state_of is not None and time.monotonic() >= self._look_at:
                    started = time.monotonic()
                    self.catch_up(self._state_of)
                    now = time.monotonic()
                    self._look_at = now + max(_LOOK, _REST * (now - started))
        except (FuselineError, OSError, ValueError):
            if not self._is_closed:
                self._on_end()  # the broker is gone for good, as whoever asks it next will be told

    def _take(self, event: RunEvent) -> None:
        with self._lock:
            if self._waiting is None:
                self._early.append(event)
            else:
                self._count(event)

    def _count(self, event: RunEvent) -> None:
        if self._waiting is None or event.instance_id not in self._waiting:
            return
        if event.step_name is not None:
            self.steps = _add(self.steps, event.state)
        elif event.state.is_settled:
            self.runs = _add(self.runs, event.state)
            self._waiting.remove(event.instance_id)
        self._on_change(self.steps, self.runs)
        if not self._waiting:
            self._on_end()


def _add(tally: Tally, state: State) -> Tally:
    if state in _DONE:
        return replace(tally, done=tally.done + 1)
    if state is State.FAILED:
        return replace(tally, failed=tally.failed + 1)
    if state is State.RETRYING:
        return replace(tally, retried=tally.retried + 1)
    if state is State.CANCELLED:
        return replace(tally, cancelled=tally.cancelled + 1)
    return tally
