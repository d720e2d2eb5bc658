"""What a seed stands for: workflows, what each attempt of a step does, and which fault comes when.

All of it is a function of the seed. Steps, programs and the check ask it separately, and get the same answer.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from fuseline.states import State

__all__ = [
    "Act",
    "Plot",
    "Signal",
    "StepPlan",
    "Target",
    "WorkflowPlan",
    "digest",
    "engines_of",
    "final_states",
    "make_plots",
    "make_workflows",
    "workflow_of",
]

WORKFLOWS = 12
#: Seconds between two faults, on average: half of them come in bursts, the others are far enough apart for a program to
#: be back at work, on a machine with much else to do.
_PAUSES = (0.2, 2.5)
#: Bytes of values: nothing, what travels, what just goes to a file and what just does not, what fills pipes.
SIZES = (0, 10, 1_000, 30_000, 40_000, 300_000, 3_000_000)


class Act(enum.StrEnum):
    """What an attempt does when its time has come."""

    RETURN = "return"
    RAISE = "raise"
    CRASH = "crash"  #: SIGKILL to its own process
    EXIT = "exit"  #: ``os._exit(3)``
    HANG = "hang"  #: runs past its timeout


class StepPlan(NamedTuple):
    """A step of a workflow."""

    name: str
    index: int  #: counted from 0
    after: tuple[str, ...]  #: names of its predecessors, in the order of their edges
    retries: int
    wait: float
    timeout: float | None
    size: int  #: of its value, in bytes

    def act(self, seed: int, number: int, attempt: int) -> Act:
        """Return what an attempt (1-based) does in run ``number``."""
        rng = Random(f"{seed}/{number}/{self.name}")
        bad = rng.choices((0, 1, 2, self.retries, self.retries + 1), (82, 8, 4, 4, 2))[0]
        acts = [act for act in Act if act is not Act.RETURN and (act is not Act.HANG or self.timeout is not None)]
        script = [rng.choices(acts, (8, 1, 1, 1)[: len(acts)])[0] for _ in range(bad)]
        return script[attempt - 1] if attempt <= bad else Act.RETURN

    def duration(self, seed: int, number: int, attempt: int) -> float:
        """Return how many seconds an attempt takes before it does that."""
        rng = Random(f"{seed}/{number}/{self.name}/{attempt}")
        return rng.uniform(0.1, 0.5) if rng.random() < 0.1 else rng.uniform(0.0, 0.03)

    def value(self, seed: int, number: int) -> bytes:
        """Return what the step returns in run ``number``."""
        digest = hashlib.sha256(f"{seed}/{number}/{self.name}".encode()).digest()
        return (digest * (self.size // len(digest) + 1))[: self.size]


class WorkflowPlan(NamedTuple):
    """A workflow. Its outputs are the steps that nothing comes after."""

    name: str
    steps: tuple[StepPlan, ...]
    goes_on: bool  #: whether branches without the failed step go on

    @property
    def outputs(self) -> list[StepPlan]:
        needed = {name for step in self.steps for name in step.after}
        return [step for step in self.steps if step.name not in needed]

    def result(self, seed: int, number: int) -> bytes | list[bytes]:
        """Return the result of run ``number`` if all goes well."""
        values = [step.value(seed, number) for step in self.outputs]
        return values[0] if len(values) == 1 else values


def digest(result: object) -> str:
    """Return what stands for a result, which may be large."""
    if isinstance(result, list):
        return f"[{', '.join(map(digest, result))}]"
    if isinstance(result, bytes):
        return f"{len(result)} bytes {hashlib.sha256(result).hexdigest()[:16]}"
    return repr(result)[:200]


def final_states(plan: WorkflowPlan, failed: set[str]) -> dict[str, set[State]]:
    """Return in which states the steps may have ended if those in ``failed`` have FAILED."""
    lost = set(failed)
    for step in plan.steps:
        if lost.intersection(step.after):
            lost.add(step.name)
    ends: dict[str, set[State]] = {}
    for step in plan.steps:
        if step.name in failed:
            ends[step.name] = {State.FAILED}
        elif step.name in lost:
            ends[step.name] = {State.CANCELLED}
        else:
            stops = bool(failed) and not plan.goes_on
            ends[step.name] = {State.SUCCEEDED, State.CANCELLED} if stops else {State.SUCCEEDED}
    return ends


def make_workflows(seed: int) -> list[WorkflowPlan]:
    """Return the workflows of a seed."""
    rng = Random(f"{seed}/workflows")
    return [_make_workflow(rng, f"chaos-{number}") for number in range(WORKFLOWS)]


def workflow_of(seed: int, number: int, plans: Sequence[WorkflowPlan]) -> WorkflowPlan:
    """Return the workflow of run ``number``."""
    return Random(f"{seed}/{number}").choice(plans)


def _make_workflow(rng: Random, name: str) -> WorkflowPlan:
    steps: list[StepPlan] = []
    for index in range(rng.randint(1, 12)):
        before = rng.sample(steps, k=min(len(steps), rng.choices((0, 1, 2, 3), (2, 5, 3, 1))[0]))
        steps.append(
            StepPlan(
                name=f"s{index}",
                index=index,
                after=tuple(step.name for step in before),
                retries=rng.choices((0, 1, 2, 4), (1, 2, 3, 3))[0],
                wait=rng.choice((0.0, 0.0, 0.05, 0.3)),
                # Long enough for all attempts that do not hang, on a machine with much else to do.
                timeout=rng.choice((None, None, None, 2.0)),
                size=rng.choices(SIZES, (3, 6, 5, 3, 3, 2, 1))[0],
            )
        )
    return WorkflowPlan(name, tuple(steps), rng.random() < 0.3)


# -- faults -----------------------------------------------------------------------------------------------------------


class Signal(enum.StrEnum):
    """What is done to a process."""

    KILL = "KILL"
    TERM = "TERM"
    STOP = "STOP"  #: until a SIGCONT
    FULL = "FULL"  #: files cannot grow, for a while


class Target(enum.StrEnum):
    """Which processes there are."""

    BROKER = "broker"
    ENGINE = "engine"
    CHILD = "child"
    GUARDIAN = "guardian"
    TRACKER = "tracker"


_WEIGHTS = {Target.BROKER: 4, Target.ENGINE: 2, Target.CHILD: 7, Target.GUARDIAN: 2, Target.TRACKER: 1}
_SIGNALS = {Signal.KILL: 5, Signal.TERM: 2, Signal.STOP: 3, Signal.FULL: 3}


class Plot(NamedTuple):
    """A fault that is to come."""

    at: float  #: seconds after the beginning
    signal: Signal
    target: Target
    pick: float  #: which of those that are there then: 0.0 the first, to 1.0 the last
    lasts: float  #: seconds, of those that end
    room: int  #: bytes that files may still grow by


def make_plots(seed: int, seconds: float) -> list[Plot]:
    """Return the faults of so many seconds, in their order."""
    rng = Random(f"{seed}/faults")
    plots = []
    at = 2.0
    while (at := at + rng.expovariate(1 / rng.choice(_PAUSES))) < seconds:
        target = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        signals = dict(_SIGNALS)
        if target not in (Target.BROKER, Target.CHILD):
            del signals[Signal.FULL]
        signal = rng.choices(list(signals), list(signals.values()))[0]
        plots.append(Plot(at, signal, target, rng.random(), rng.uniform(0.05, 1.5), rng.choice((0, 5_000, 200_000))))
    return plots


def engines_of(seed: int) -> int:
    """Return how many engine programs there are."""
    return Random(f"{seed}/engines").randint(1, 3)
