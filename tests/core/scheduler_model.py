"""Random histories of a scheduler: small graphs, two workers, and everything that may go wrong around them.

The actions only do what workers, users, time and a new broker process can do. After each of them ``TwinBench`` compares
what the scheduler tells and how all runs stand with ``reference.Reference``, and checks the invariants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fuseline.encoding import encode
from fuseline.messages import FailureDecision, StepAssignment
from fuseline.policies import RetryPolicy
from fuseline.scheduler import (
    Answer,
    Assign,
    Command,
    Event,
    Finished,
    Kill,
    Moved,
    Recall,
    RunForgotten,
    RunRestored,
    Scheduler,
    StepCancelled,
    StepsReady,
)
from fuseline.scheduler.archive import record_run, revive_record
from fuseline.schema import WorkflowSchema
from fuseline.states import State

from .helpers import ACCEPTED, STALE, Bench, error_info, report_of, step_schema
from .reference import RESTARTS, Reference, Said

MAX_RUNS = 4
EPOCH = 4096.0  #: so that times are exact after they were shifted and shifted back
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
    ["request"] * 8
    + ["report"] * 6
    + ["succeed"] * 5
    + ["lose_worker", "pass_time", "cancel_step", "restart", "resume"] * 2
    + [
        "report_again",
        "report_by_another",
        "report_nonsense",
        "crash_on",
        "cancel",
        "forget",
        "dispatch",
        "give_back_promised",
    ]
)


@st.composite
def graphs(draw: st.DrawFn, name: str = "wf", on_failure: str | None = None) -> WorkflowSchema:
    """Return a graph of 1 to 6 steps, each of which may have retries, and may do without the results before it."""
    count = draw(st.integers(min_value=1, max_value=6))
    steps = []
    for i in range(count):
        before = [f"s{j}" for j in range(i) if draw(st.booleans())]
        retries = draw(st.integers(min_value=0, max_value=2))
        policies = [RetryPolicy(retries, wait=draw(st.sampled_from([0.0, 1.0])))] if retries else []
        takes_none = draw(st.integers(min_value=0, max_value=3)) == 3
        steps.append(step_schema(f"s{i}", *before, policies=policies, parameters=() if takes_none else None))
    outputs = draw(st.sets(st.sampled_from([step.name for step in steps]), min_size=1))
    return WorkflowSchema(
        workflow_id=name,
        name=name,
        steps=tuple(steps),
        outputs=tuple(sorted(outputs)),
        on_failure=on_failure or draw(st.sampled_from(["stop", "continue"])),
    )


class TwinBench(Bench):
    """A bench that tells the reference what it tells the scheduler, and finds them of one mind."""

    def __init__(self) -> None:
        super().__init__()
        self.reference = Reference()
        self.scheduler.watched = True

    def handle(self, event: Event) -> list[Command]:
        commands = super().handle(event)
        expected = self.reference.handle(event, self.now)
        actual = [each for command in commands if not isinstance(command, Moved) for each in said(command)]
        for kind in ("assign", "answer", "finished"):
            assert [each for each in actual if each[0] == kind] == [each for each in expected if each[0] == kind]
        assert {each for each in actual if each[0] in ORDERLESS} == {each for each in expected if each[0] in ORDERLESS}
        self.compare()
        return commands

    def compare(self) -> None:
        """Compare how everything stands."""
        scheduler, reference = self.scheduler, self.reference
        assert list(scheduler.runs) == list(reference.runs)
        for name, run in reference.runs.items():
            actual = self.run(name)
            assert (actual.state, actual.cancelled) == (run.state, run.cancelled)
            assert [actual.plan.names[step] for step in actual.failed_steps] == run.failed
            for i, (step_name, step) in enumerate(run.steps.items()):
                assert (actual.states[i], actual.attempts[i]) == (step.state, step.attempts)
                assert (actual.running.get(i), actual.due.get(i)) == (step.token, step.due)
                assert actual.promised.get(i) == (step.promise and step.promise[:2])
                assert actual.restarts.get(i, 0) == step.restarts
                assert (i in actual.results) == run.keeps_result(step_name)
                assert not step.state.is_settled or actual.causes.get(i, "") == step.cause
        for worker, serves in reference.workers.items():
            held = [token for token, (holder, _, _) in reference.held.items() if holder == worker]
            assert list(scheduler.held_by(worker)) == held
            open_runs = [run for run in reference.runs.values() if not run.state.is_settled]
            assert scheduler.unsettled(worker) == sum(run.schema.workflow_id in (serves or ()) for run in open_runs)
        assert scheduler.next_due() == reference.next_due()

    # -- what a housing does ------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Go on with another scheduler, which knows what was recorded of the runs of this one."""
        records = [(run.plan.schema, record_run(run, EPOCH)) for run in self.scheduler.runs.values()]
        first_token = self.reference.last_token + 1000
        highest = max((record.number for _, record in records), default=0)
        self.scheduler = Scheduler(first_token=first_token, first_number=highest + 1)
        self.scheduler.watched = True
        for schema, record in records:
            self.scheduler.handle(RunRestored(schema, record, EPOCH), self.now)
        assert self._witness is not None
        self._witness.follow(self.scheduler)
        self.reference.restart(first_token)
        self.compare()

    def resume(self, name: str) -> None:
        """Let a run that has ended go on."""
        run = self.run(name)
        revived = revive_record(record_run(run, EPOCH), run.plan)
        super().handle(RunForgotten(name))
        self.scheduler.handle(RunRestored(run.plan.schema, revived, EPOCH), self.now)
        anew = self.reference.resume(name)
        assert self._witness is not None
        self._witness.resumed(self.run(name), anew)
        self.compare()


ORDERLESS = ("kill", "recall", "ready")


def said(command: Command) -> list[Said]:
    """Return a command as the reference says it."""
    match command:
        case Assign(worker_id, assignments):
            return [said_of(worker_id, assignment) for assignment in assignments]
        case Answer(answers):
            return [("answer", each.status, each.step_state, each.delay, each.run_state) for each in answers]
        case Finished(_, instance_id, state, tell):
            return [("finished", instance_id, state, tell)]
        case Kill(worker_id, token):
            return [("kill", worker_id, token)]
        case Recall(worker_id, token):
            return [("recall", worker_id, token)]
        case StepsReady(workflow_id):
            return [("ready", workflow_id)]
    raise AssertionError(command)


def said_of(worker_id: str, to: StepAssignment) -> Said:
    payload = to.payload
    assert to.timeout is None
    whom = (worker_id, to.token, to.instance_id, to.step_name)
    return ("assign", *whom, to.attempt, payload.failures, payload.starts_run, count_arguments(payload.arguments))


def count_arguments(arguments: Mapping[str, Any]) -> int:
    return sum(len(value) for value in arguments.values())


class SchedulerModel(RuleBasedStateMachine):
    """Workers, users, time and broker processes, at random."""

    fired: ClassVar[Counter[str]] = Counter()  #: how often each action did something

    def __init__(self) -> None:
        super().__init__()
        self.bench = TwinBench()
        self.workers: list[str] = []
        self.runs: list[str] = []  #: that were not forgotten
        self.held: dict[int, tuple[str, StepAssignment]] = {}  #: {token: (worker, assignment)}
        self.promised: dict[int, tuple[str, StepAssignment]] = {}  #: those that follow one that is held
        self.past: list[tuple[str, StepAssignment]] = []  #: assignments that nothing may change any more
        self.count = 0
        self._is_sound = True  #: whether no action has failed

    @initialize(one=graphs("one"), two=graphs("two"))
    def begin(self, one: WorkflowSchema, two: WorkflowSchema) -> None:
        self.schemas = [one, two]
        for which in range(2):
            self._join()
            self.dispatch(which)

    @rule(action=st.sampled_from(ACTIONS), which=SOME, number=SOME, state=ENDS, decision=DECISIONS)
    def act(self, action: str, which: int, number: int, state: State, decision: FailureDecision | None) -> None:
        """Do one of the things that may happen."""
        self._is_sound = False
        self._act(action, which, number, state, decision)
        self._follow_promises()
        self._is_sound = True

    def _follow_promises(self) -> None:
        """See what has become of those that follow others."""
        promised = {token for name in self.runs for token, _ in self.bench.run(name).promised.values()}
        for token, (worker, assignment) in list(self.promised.items()):
            if token in promised:
                continue
            del self.promised[token]
            if token in self.bench.scheduler._live:
                self.held[token] = (worker, assignment)
                self.fired["promise kept"] += 1
            else:
                self.past.append((worker, assignment))
                self.fired["promise broken"] += 1

    def _act(self, action: str, which: int, number: int, state: State, decision: FailureDecision | None) -> None:
        if action == "report":
            self.report(which, state, decision, names_token=bool(number % 2), count=1 + number % 3)
        elif action == "succeed":
            self.report(which, State.SUCCEEDED, None, names_token=bool(number % 2))
        elif action == "request":
            self.request(which, 1 + number % 4)
        elif action in ("report_again", "report_by_another", "report_nonsense"):
            getattr(self, action)(which, state)
        elif action == "pass_time":
            self.pass_time(float(number % 3))
        elif action in ("cancel_step", "restart"):
            getattr(self, action)(which, number)
        else:
            getattr(self, action)(which)

    # -- users and time -----------------------------------------------------------------------------------------------

    def _unsettled(self) -> int:
        return sum(not self.bench.run(name).state.is_settled for name in self.runs)

    def _settled(self) -> list[str]:
        return [name for name in self.runs if self.bench.run(name).state.is_settled]

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

    def cancel_step(self, which: int, number: int) -> None:
        if self.runs:
            names = [name for name in self.runs if not self.bench.run(name).state.is_settled] or self.runs
            run = self.bench.run(names[which % len(names)])
            step = number % len(run.states)
            if number % 3 and State.RETRYING in run.states:  # which is rare
                step = run.states.index(State.RETRYING)
            elif number % 2 and State.RUNNING in run.states:
                step = run.states.index(State.RUNNING)
            self.fired[f"cancel a step that is {run.states[step]}"] += 1
            self.bench.handle(StepCancelled(run.instance_id, run.plan.names[step]))

    def forget(self, which: int) -> None:
        if settled := self._settled():
            name = settled[which % len(settled)]
            self.runs.remove(name)
            self.bench.handle(RunForgotten(name))
            self.fired["forget"] += 1

    def resume(self, which: int) -> None:
        if (settled := self._settled()) and self._unsettled() < MAX_RUNS:
            name = settled[which % len(settled)]
            self.bench.resume(name)
            self.fired["resume"] += not self.bench.run(name).state.is_settled

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
        self._follow_promises()
        for token, (holder, assignment) in list(self.held.items()):
            if holder == worker:
                del self.held[token]
                self.past.append((worker, assignment))
                self.fired["step lost"] += 1
        self._join()

    def crash_on(self, which: int) -> None:
        """Let one worker after the other die of the step that is handed out first."""
        failed = [name for name in self.runs if self.bench.run(name).failed_steps]
        for _ in range(RESTARTS + 1):
            self.request(-1, 1)
            self.lose_worker(-1)
        self.fired["given up"] += any(self.bench.run(name).failed_steps for name in self.runs if name not in failed)

    def restart(self, which: int, number: int) -> None:
        """Let the broker process be another one; some workers come back to it, the others are found dead."""
        self.bench.restart()
        held_by = {worker for worker, _ in self.held.values()}
        for place, worker in enumerate(list(self.workers)):
            self.workers.remove(worker)
            if (number + place) % 2:
                self.workers.append(worker)
                self.bench.register(worker, *self.schemas)
                self.fired["worker came back"] += worker in held_by
                continue
            if worker in held_by:
                self.workers.insert(0, worker)
                self.lose_worker(0)
                self.fired["worker never came back"] += 1
            else:
                self._join()

    def request(self, which: int, limit: int) -> None:
        if not self._unsettled():  # histories are too short for idle workers
            self.dispatch(which)
        worker = self.workers[which % len(self.workers)]
        self.pass_time(0.0)
        ready = sum(self.bench.run(name).states.count(State.READY) for name in self.runs)
        assignments = self.bench.take(limit, worker, chains=bool(which % 4))
        assert min(limit, ready) <= len(assignments) <= limit, "a worker gets what there is, up to its room"
        self.fired["request"] += bool(assignments)
        for assignment in assignments:
            self.fired["promise"] += assignment.follows is not None
            (self.held if assignment.follows is None else self.promised)[assignment.token] = (worker, assignment)

    def give_back_promised(self, which: int) -> None:
        """Hand back what follows another assignment before that has ended."""
        if self.promised:
            worker, assignment = self.promised[list(self.promised)[which % len(self.promised)]]
            other = next(name for name in self.workers if name != worker)
            assert self.bench.report(report_of(assignment, State.READY), other).status is STALE
            assert self.bench.report(report_of(assignment, State.SUCCEEDED), worker).status is STALE
            assert self.bench.report(report_of(assignment, State.READY), worker).status is ACCEPTED
            self.fired["promise given back"] += 1

    # -- reports ------------------------------------------------------------------------------------------------------

    def report(
        self, which: int, state: State, decision: FailureDecision | None, *, names_token: bool, count: int = 1
    ) -> None:
        """Let so many assignments of a worker end together."""
        if not self.held:
            return
        if state is State.READY and which % 2:
            self.give_back_promised(which)
        goes_on = state is State.SUCCEEDED and which % 3 == 0  # with what follows it
        followed = [each.follows for _, each in self.promised.values() if each.follows in self.held] if goes_on else []
        count = 1 if followed else count
        first = next(iter(followed), list(self.held)[which % len(self.held)])
        worker, _ = self.held[first]
        tokens = [token for token, (holder, _) in self.held.items() if holder == worker]
        start = tokens.index(first)
        assignments = [self.held.pop(token)[1] for token in (tokens[start:] + tokens[:start])[:count]]
        if goes_on:
            following = {assignment.follows: token for token, (_, assignment) in self.promised.items()}
            while (token := following.get(assignments[-1].token)) is not None:
                assignments.append(self.promised.pop(token)[1])
                self.fired["report of a chain"] += 1
        failed = state is State.FAILED
        reports = [
            report_of(
                assignment,
                state,
                token=assignment.token if names_token else None,
                result=encode(assignment.step_name),
                error=error_info() if failed and names_token else None,
                decision=decision if failed else None,
                decided_by=0 if failed and decision and which % 2 else None,
                told=state is State.READY and which % 3 == 0,
            )
            for assignment in assignments
        ]
        answers = self.bench.report_all(reports, worker)
        self.fired[f"report {state}"] += len(reports)
        self.fired["report together"] += len(reports) > 1
        assert [answer.status for answer in answers] == [ACCEPTED] * len(reports)
        self.past += [(worker, assignment) for assignment in assignments]

    def report_again(self, which: int, state: State) -> None:
        """Repeat reports, of the newest assignments first."""
        for worker, assignment in self.past[-1 - which % 3 :]:
            answer = self.bench.report(report_of(assignment, state, result=encode("late")), worker)
            assert answer.status is not ACCEPTED
            self.fired["report again"] += 1

    def report_by_another(self, which: int, state: State) -> None:
        if not self.held:
            return
        worker, assignment = self.held[list(self.held)[which % len(self.held)]]
        other = next(name for name in self.workers if name != worker)
        assert self.bench.report(report_of(assignment, state), other).status is STALE
        assert self.bench.report(report_of(assignment, state, token=None), other).status is STALE
        self.fired["report by another"] += 1

    def report_nonsense(self, which: int, state: State) -> None:
        """Report with the token of another step, or one that nobody was given."""
        if not self.held:
            return
        worker, assignment = self.held[list(self.held)[which % len(self.held)]]
        for fields in (
            {"token": 0},
            {"token": assignment.token + 10_000_000},
            {"step_name": "none of it"},
            {"instance_id": "no run"},
            {"step_name": "s0" if assignment.step_name != "s0" else "s1"},
        ):
            assert self.bench.report(report_of(assignment, state, **fields), worker).status is not ACCEPTED
        self.fired["report nonsense"] += 1

    # -- and in the end -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """With workers that make no faults, everything settles in a bounded number of events."""
        bench = self.bench
        if not self.workers or not self._is_sound:  # it has not even begun, or what went wrong is known
            return
        while self.held:
            worker, assignment = self.held.pop(next(iter(self.held)))
            assert bench.succeed(assignment, worker=worker).status is ACCEPTED
            self._follow_promises()
        assert not self.promised, "what follows nothing is not waited for"
        runs = [bench.run(name) for name in self.runs]
        steps_left = sum(run.open_steps for run in runs)
        waits = sum(run.states.count(State.RETRYING) for run in runs)
        # A report for each step, a request for each that gives something, and one for each time that is waited for.
        assert bench.finish(self.workers[0]) <= 2 * steps_left + waits
        assert all(run.state.is_settled for run in runs)
        assert bench.scheduler.next_due() is None
