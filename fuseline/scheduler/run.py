"""The state of one run. Only the core changes it; brokers read it to answer questions."""

from __future__ import annotations

from collections.abc import Mapping

from fuseline.errors import IllegalMove
from fuseline.scheduler.plan import BoundPlan, Plan
from fuseline.states import NEXT_RUN_STATES, NEXT_STEP_STATES, State
from fuseline.values import ErrorInfo, Value

__all__ = ["Run"]


class Run:
    """One execution of a workflow. Lists are by the number of the step; dicts hold only what there is."""

    __slots__ = (
        "attempts",
        "bound",
        "cancelled",
        "causes",
        "created",
        "errors",
        "failed_steps",
        "failures",
        "finished",
        "inputs",
        "instance_id",
        "missing",
        "number",
        "open_steps",
        "plan",
        "queued",
        "ready",
        "restarts",
        "results",
        "running",
        "started",
        "started_by",
        "state",
        "states",
        "step_finished",
        "step_started",
        "uses",
    )

    def __init__(
        self,
        instance_id: str,
        number: int,
        plan: Plan,
        bound: BoundPlan,
        inputs: Mapping[str, Value],
        now: float,
    ) -> None:
        count = len(plan.names)
        self.instance_id = instance_id
        self.number = number  #: of its dispatch: an older run has a smaller one
        self.plan = plan
        self.bound = bound
        self.inputs = inputs
        self.state = State.PENDING
        self.states = [State.PENDING] * count
        self.missing = list(plan.missing)  #: predecessors that have not succeeded yet
        self.attempts = [0] * count
        self.uses = list(bound.uses)  #: how often a result is still needed
        self.open_steps = count  #: not settled yet
        self.ready: list[int] = []  #: a stack; what is not READY any more is skipped
        self.queued = False  #: whether the ready queue holds it
        self.running: dict[int, int] = {}  #: {step: token}
        self.results: dict[int, Value] = {}
        self.errors: dict[int, ErrorInfo] = {}
        self.causes: dict[int, str] = {}
        self.failures: dict[int, dict[int, int]] = {}  #: {step: {place of a policy: failures it decided}}
        self.restarts: dict[int, int] = {}
        self.failed_steps: list[int] = []  #: in the order in which they failed
        self.cancelled = False
        self.started_by: str | None = None  #: the worker that got its first step
        self.created = now
        self.started: float | None = None
        self.finished: float | None = None
        self.step_started: dict[int, float] = {}
        self.step_finished: dict[int, float] = {}

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new may start in it."""
        return self.cancelled or bool(self.failed_steps and self.plan.stops_on_failure)

    def move_step(self, step: int, target: State) -> None:
        """Take a step to another state; the one place that does.

        Raises:
            IllegalMove: the table of states has no such move. Nothing was changed.
        """
        origin = self.states[step]
        if target not in NEXT_STEP_STATES[origin]:
            history = f"attempts {self.attempts[step]}, token {self.running.get(step)}, run {self.state}"
            whom = f"step {self.plan.names[step]!r} of run {self.instance_id}"
            raise IllegalMove(whom, origin, target, history)
        self.states[step] = target
        if target.is_settled:
            self.open_steps -= 1

    def move(self, target: State) -> None:
        """Take the run itself to another state; the one place that does.

        Raises:
            IllegalMove: the table of states has no such move. Nothing was changed.
        """
        if target not in NEXT_RUN_STATES[self.state]:
            raise IllegalMove(f"run {self.instance_id}", self.state, target, f"{self.open_steps} steps are open")
        self.state = target
