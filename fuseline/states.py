"""The states of runs and steps, and the moves between them that are legal.

Both tables have one writer, the scheduler. A move that is not in the table is a bug: it raises ``IllegalMove`` and
changes nothing.
"""

from __future__ import annotations

import enum

__all__ = ["NEXT_RUN_STATES", "NEXT_STEP_STATES", "SETTLED", "State"]


class State(enum.StrEnum):
    """Where a step of a run, or a whole run, stands.

    A step uses all of them; a run is ``PENDING`` until its first step starts, then ``RUNNING``, then one of the three
    ends ``SUCCEEDED``, ``FAILED`` or ``CANCELLED``.
    """

    PENDING = "PENDING"  #: waits for other steps
    READY = "READY"  #: may start as soon as a worker has room
    RUNNING = "RUNNING"  #: handed to a worker
    RETRYING = "RETRYING"  #: failed, and waits for its next attempt; holds no slot
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  #: a policy chose to do without it, or it depends on such a step
    CANCELLED = "CANCELLED"  #: never finished, because its run was cancelled or failed

    @property
    def is_settled(self) -> bool:
        """Whether this is an end: nothing moves on from here."""
        return self in SETTLED


SETTLED = frozenset({State.SUCCEEDED, State.FAILED, State.SKIPPED, State.CANCELLED})
_NOWHERE: frozenset[State] = frozenset()

NEXT_STEP_STATES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.READY, State.SKIPPED, State.CANCELLED}),
    State.READY: frozenset({State.RUNNING, State.CANCELLED}),
    # RUNNING -> READY: handed back untouched, or its worker died (a restart); neither is the step's doing.
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.SKIPPED, State.CANCELLED, State.RETRYING, State.READY}
    ),
    State.RETRYING: frozenset({State.READY, State.CANCELLED}),
    State.SUCCEEDED: _NOWHERE,
    State.FAILED: _NOWHERE,
    State.SKIPPED: _NOWHERE,
    State.CANCELLED: _NOWHERE,
}

NEXT_RUN_STATES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: _NOWHERE,
    State.FAILED: _NOWHERE,
    State.CANCELLED: _NOWHERE,
}
