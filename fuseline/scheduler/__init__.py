"""The pure core: what happened goes in, what to do comes out.

``core`` is the state machine, ``events`` what it is told and what it tells, ``plan`` a schema compiled for it, ``run``
the state of one run, ``archive`` its way to a record and back, ``ready`` the order in which steps are handed out,
``deadlines`` the time of runs, ``invariants`` what a scheduler can check itself.
Nothing in here reads a clock, draws a random number, starts a thread or touches a pipe: a broker is this core in a
housing that does.
"""

from fuseline.scheduler.core import Scheduler
from fuseline.scheduler.events import (
    Answer,
    Assign,
    Command,
    Dropped,
    Event,
    Finished,
    Kill,
    Moved,
    Recall,
    Reported,
    RunCancelled,
    RunDispatched,
    RunForgotten,
    RunRestored,
    StepCancelled,
    StepsReady,
    StepsRequested,
    TimePassed,
    WorkerLeft,
    WorkerRegistered,
)

__all__ = [
    "Answer",
    "Assign",
    "Command",
    "Dropped",
    "Event",
    "Finished",
    "Kill",
    "Moved",
    "Recall",
    "Reported",
    "RunCancelled",
    "RunDispatched",
    "RunForgotten",
    "RunRestored",
    "Scheduler",
    "StepCancelled",
    "StepsReady",
    "StepsRequested",
    "TimePassed",
    "WorkerLeft",
    "WorkerRegistered",
]
