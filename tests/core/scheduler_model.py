"""Random histories of a scheduler: small graphs, two workers, and everything that may go wrong between them.

The actions only do what workers, users and time can do; ``Bench`` checks the invariants after each of them.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fuseline.encoding import encode
from fuseline.messages import FailureDecision, StepAssignment
from fuseline.policies import RetryPolicy
from fuseline.scheduler import RunForgotten
from fuseline.schema import WorkflowSchema
from fuseline.states import State

from .helpers import ACCEPTED, STALE, UNKNOWN, Bench, error_info, report_of, step_schema

MAX_RUNS = 4
SOME = st.integers(min_value=0, max_value=1000)  #: which of what there is, modulo their number

ENDS = st.sampled_from(
    [State.SUCCEEDED, State.FAILED, State.FAILED, State.FAILED, State.SKIPPED, State.READY, State.CANCELLED]
)
DECISIONS = st.sampled_from(
    [
        None,
        None,
        FailureDecision(FailureDecision.FAIL),
        FailureDecision(FailureDecision.SKIP),
        FailureDecision(FailureDecision.RETRY),
        FailureDecision(FailureDecision.RETRY, 1.5),
    ]
)


#: How often each action is tried, in proportion. One rule draws them all: with a rule for each, hypothesis would leave
#: out some in most histories, and one without requests or reports leads nowhere.
ACTIONS = (
    ["request"] * 6
    + ["report"] * 5
    + ["succeed"] * 4
    + [
        "report_again",
        "report_by_another",
        "lose_worker",
        "lose_worker",
        "cancel",
        "pass_time",
        "pass_time",
        "forget",
        "dispatch",
    ]
)


@st.composite
def graphs(draw: st.DrawFn, name: str = "wf", on_failure: str | None = None) -> WorkflowSchema:
    """Return a graph of 1 to 6 steps, each of which may have retries."""
    count = draw(st.integers(min_value=1, max_value=6))
    steps = []
    for i in range(count):
        before = [f"s{j}" for j in range(i) if draw(st.booleans())]
        retries = draw(st.integers(min_value=0, max_value=2))
        policies = [RetryPolicy(retries, wait=draw(st.sampled_from([0.0, 1.0])))] if retries else []
        steps.append(step_schema(f"s{i}", *before, policies=policies))
    outputs = draw(st.sets(st.sampled_from([step.name for step in steps]), min_size=1))
    return WorkflowSchema(
        workflow_id=name,
        name=name,
        steps=tuple(steps),
        outputs=tuple(sorted(outputs)),
        on_failure=on_failure or draw(st.sampled_from(["stop", "continue"])),
    )


class SchedulerModel(RuleBasedStateMachine):
    """Workers, users and time, at random."""

    fired: ClassVar[Counter[str]] = Counter()  #: how often each action did something

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.workers: list[str] = []
        self.runs: list[str] = []  #: that were not forgotten
        self.held: dict[int, tuple[str, StepAssignment]] = {}  #: {token: (worker, assignment)}
        self.past: list[tuple[str, StepAssignment]] = []  #: assignments that nothing may change any more
        self.count = 0

    @initialize(one=graphs("one"), two=graphs("two"))
    def begin(self, one: WorkflowSchema, two: WorkflowSchema) -> None:
        self.schemas = [one, two]
        for which in range(2):
            self._join()
            self.dispatch(which)

    @rule(action=st.sampled_from(ACTIONS), which=SOME, number=SOME, state=ENDS, decision=DECISIONS)
    def act(self, action: str, which: int, number: int, state: State, decision: FailureDecision | None) -> None:
        """Do one of the things that may happen."""
        if action == "report":
            for _ in range(1 + number % 3):  # several in a row, so that siblings end together
                self.report(which, state, decision, names_token=bool(number % 2))
        elif action == "succeed":
            self.report(which, State.SUCCEEDED, None, names_token=bool(number % 2))
        elif action == "request":
            self.request(which, 1 + number % 4)
        elif action == "report_again":
            self.report_again(which, state)
        elif action == "report_by_another":
            self.report_by_another(which, state)
        elif action == "pass_time":
            self.pass_time(float(number % 3))
        else:
            getattr(self, action)(which)

    # -- users and time -----------------------------------------------------------------------------------------------

    def _unsettled(self) -> int:
        return sum(not self.bench.run(name).state.is_settled for name in self.runs)

    def dispatch(self, which: int) -> None:
        if self._unsettled() < MAX_RUNS:
            self.count += 1
            self.runs.append(f"r{self.count}")
            self.bench.dispatch(self.runs[-1], self.schemas[which % 2])
            self.fired["dispatch"] += 1

    def cancel(self, which: int) -> None:
        if self.runs:
            name = self.runs[which % len(self.runs)]
            self.fired["cancel"] += not self.bench.run(name).state.is_settled
            self.bench.cancel(name)

    def forget(self, which: int) -> None:
        settled = [name for name in self.runs if self.bench.run(name).state.is_settled]
        if settled:
            name = settled[which % len(settled)]
            self.runs.remove(name)
            self.bench.handle(RunForgotten(name))
            self.fired["forget"] += 1

    def pass_time(self, seconds: float) -> None:
        due = self.bench.scheduler.next_due()
        self.bench.pass_time(seconds)
        self.fired["retry due"] += due is not None and due <= self.bench.now

    # -- workers ------------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        self.count += 1
        self.workers.append(f"w{self.count}")
        self.bench.register(self.workers[-1], *self.schemas)

    def lose_worker(self, which: int) -> None:
        worker = self.workers.pop(which % len(self.workers))
        self.bench.leave(worker)
        for token, (holder, assignment) in list(self.held.items()):
            if holder == worker:
                del self.held[token]
                self.past.append((worker, assignment))
                self.fired["step lost"] += 1
        self._join()

    def request(self, which: int, limit: int) -> None:
        if not self._unsettled():  # histories are too short for idle workers
            self.dispatch(which)
        worker = self.workers[which % len(self.workers)]
        self.pass_time(0.0)
        ready = sum(self.bench.run(name).states.count(State.READY) for name in self.runs)
        assignments = self.bench.take(limit, worker)
        assert len(assignments) == min(limit, ready), "a worker gets what there is, up to its room"
        self.fired["request"] += bool(assignments)
        for assignment in assignments:
            self.held[assignment.token] = (worker, assignment)
        for name in self.workers:
            assert set(self.bench.scheduler.held_by(name)) == {t for t, (w, _) in self.held.items() if w == name}

    # -- reports ------------------------------------------------------------------------------------------------------

    def report(self, which: int, state: State, decision: FailureDecision | None, *, names_token: bool) -> None:
        if not self.held:
            return
        worker, assignment = self.held.pop(list(self.held)[which % len(self.held)])
        failed = state is State.FAILED
        report = report_of(
            assignment,
            state,
            token=assignment.token if names_token else None,
            result=encode(assignment.step_name),
            error=error_info() if failed and names_token else None,
            decision=decision if failed else None,
            decided_by=0 if failed and decision else None,
        )
        answer = self.bench.report(report, worker)
        self.fired[f"report {state}"] += 1
        assert answer.status is ACCEPTED
        assert answer.step_state is self.bench.states(assignment.instance_id)[assignment.step_name]
        self.past.append((worker, assignment))

    def report_again(self, which: int, state: State) -> None:
        """Repeat reports, of the newest assignments first."""
        for worker, assignment in self.past[-1 - which % 3 :]:
            answer = self.bench.report(report_of(assignment, state, result=encode("late")), worker)
            assert answer.status in (STALE, UNKNOWN)
            self.fired["report again"] += 1

    def report_by_another(self, which: int, state: State) -> None:
        if not self.held:
            return
        worker, assignment = self.held[list(self.held)[which % len(self.held)]]
        [other] = [name for name in self.workers if name != worker]
        assert self.bench.report(report_of(assignment, state), other).status is STALE
        assert self.bench.report(report_of(assignment, state, token=None), other).status is STALE
        self.fired["report by another"] += 1

    # -- and in the end -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """With workers that make no faults, everything settles in a bounded number of events."""
        bench = self.bench
        if not self.workers:  # it has not even begun
            return
        for worker, assignment in self.held.values():
            assert bench.succeed(assignment, worker=worker).status is ACCEPTED
        steps_left = sum(bench.run(name).open_steps for name in self.runs)
        events = bench.finish(self.workers[0])
        assert events <= 4 * steps_left + 1
        assert all(bench.run(name).state.is_settled for name in self.runs)
        assert bench.scheduler.next_due() is None
