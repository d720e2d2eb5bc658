"""History: all that is known of a time of chaos, from four sources that know nothing of each other.

- the steps themselves (``journal``): what started, and came to its end;
- those who were told: what was dispatched, and which outcomes were acknowledged, and when;
- the broker, at the end: how runs stand, every move of them, and their results;
- the tormentor: what was done to which process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from fuseline.records import Move
from fuseline.states import State

from .journal import Line
from .plan import Signal, Target, WorkflowPlan, make_workflows, workflow_of

__all__ = ["SLACK", "End", "Fault", "Found", "Heard", "History"]

#: Seconds by which the times of different sources may differ: who keeps programs looks at them now and then.
SLACK = 1.5


class Fault(NamedTuple):
    """Something that was done to a process."""

    at: float  #: monotonic seconds
    signal: Signal
    target: Target
    pid: int
    until: float  #: when it was undone; ``at`` where it cannot be


class Heard(NamedTuple):
    """Somebody was told that a run, or a step of it, has ended."""

    at: float  #: monotonic seconds
    run: str
    step: str | None
    state: State
    attempt: int | None


class Found(NamedTuple):
    """How a run stands at the end."""

    number: int
    state: State
    steps: dict[str, State]
    moves: list[Move]  #: whose times are monotonic seconds here
    result: str | None = None  #: its digest, if it succeeded


class End(NamedTuple):
    """A program that was kept has ended, unasked."""

    at: float  #: monotonic seconds; when that was seen
    name: str
    pid: int
    code: int  #: as of ``waitpid``: negative for a signal


@dataclass
class History:
    """See above."""

    seed: int
    lines: list[Line]
    found: dict[str, Found]  #: {run: how it stands}
    heard: list[Heard] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    plans: Sequence[WorkflowPlan] = ()

    def __post_init__(self) -> None:
        self.plans = self.plans or make_workflows(self.seed)

    def plan(self, number: int) -> WorkflowPlan:
        """Return the workflow of a run."""
        return workflow_of(self.seed, number, self.plans)

    def of_kind(self, *kinds: str) -> list[Line]:
        return [line for line in self.lines if line.kind in kinds]

    @cached_property
    def attempts(self) -> dict[tuple[str, str], list[Line]]:
        """``{(run, step): what its attempts have written, in the order of time}``."""
        found = defaultdict(list)
        for line in sorted(self.of_kind("start", "end", "met", "wrong")):
            found[line.run, line.step].append(line)
        return found

    @cached_property
    def told_at(self) -> dict[tuple[str, str | None], float]:
        """``{(run, step): when somebody was first told of its end}``."""
        found: dict[tuple[str, str | None], float] = {}
        for heard in self.heard:
            key = (heard.run, heard.step)
            found[key] = min(heard.at, found.get(key, heard.at))
        return found

    @cached_property
    def engines(self) -> dict[str, int]:
        """``{name of an engine program, as the broker knows it: its process}``."""
        return {line.text: line.pid for line in self.of_kind("engine")}

    def has_ended(self, pid: int, by: float) -> bool:
        """Return whether a program had ended, or had stopped its work by itself, by a moment."""
        seen = [end.at for end in self.ends if end.pid == pid]
        said = [line.at for line in self.of_kind("left") if line.pid == pid]
        return any(at <= by + SLACK for at in seen + said)

    def killed_unused(self, by: float) -> int:
        """Return how many children were killed by a moment in which no step had started."""
        used = {line.pid for line in self.of_kind("start")}
        deadly = (Signal.KILL, Signal.TERM)
        hit = [fault for fault in self.faults if fault.target is Target.CHILD and fault.signal in deadly]
        return len({fault.pid for fault in hit if fault.at <= by} - used)

    def has_hit(self, signals: Iterable[Signal], since: float, until: float, pid: int) -> bool:
        """Return whether a process was hit in a span of time."""
        return any(
            fault.pid == pid and fault.signal in signals and fault.at <= until + SLACK and fault.until >= since - SLACK
            for fault in self.faults
        )

    def has_hit_some(self, target: Target, signals: Iterable[Signal], since: float, until: float) -> bool:
        """Return whether one of the processes of a kind was hit in a span of time."""
        pids = {fault.pid for fault in self.faults if fault.target is target}
        return any(self.has_hit(signals, since, until, pid) for pid in pids)
