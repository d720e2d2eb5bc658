"""What a batch of events has changed, on its way to the store."""

from __future__ import annotations

import msgspec

from fuseline.scheduler.run import Run
from fuseline.states import State
from fuseline.values import Value

__all__ = ["Changes", "Moment"]


class Moment(msgspec.Struct, frozen=True, gc=False):
    """A move as it is written."""

    run: Run
    step_name: str | None
    state: State
    attempt: int | None
    cause: str
    at: float  #: monotonic seconds
    token: int | None  #: of the assignment, where a step is RUNNING
    worker_id: str | None  #: likewise


class Changes:
    """What a batch of events has changed, and the store has not been told yet."""

    def __init__(self) -> None:
        self.new_runs: list[Run] = []
        self.runs: dict[Run, None] = {}  #: others whose own state is new
        self.revived: list[Run] = []  #: those that go on after their end, of another version of their workflow perhaps
        self.steps: dict[tuple[Run, int], Value | None] = {}  #: and the result, of one that has succeeded
        self.moves: list[Moment] = []
        self.outputs: list[tuple[Run, str, int, str]] = []  #: (run, step, attempt, what it has printed)
        self.forgotten: list[str] = []  #: ids of runs
        self.matters = False  #: whether somebody relies on it after a power cut

    def __bool__(self) -> bool:
        return bool(self.new_runs or self.runs or self.steps or self.moves or self.forgotten)
