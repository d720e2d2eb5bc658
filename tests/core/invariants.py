"""What must be true of a scheduler after every event, and of its answers over time.

The rules are written against what the scheduler keeps, so that a wrong entry is seen when it is made and not when it
does harm. ``Witness`` remembers what it has seen; the functions look at one moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from fuseline.messages import ReportStatus
from fuseline.scheduler import Answer, Assign, Command, Event, Finished, Reported, Scheduler, StepsRequested
from fuseline.scheduler.run import Run
from fuseline.states import State

WAITING = (State.PENDING, State.READY, State.RETRYING)


class Witness:
    """Watches one scheduler from its first event on."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tokens: set[int] = set()
        self._starts: Counter[tuple[str, str]] = Counter()
        self._outcomes: dict[tuple[str, str | None], object] = {}
        self._announced: Counter[str] = Counter()
        self._causes: Counter[tuple[str, str]] = Counter()  #: of starts after the first, but for restarts
        self._resumed: set[str] = set()

    def follow(self, scheduler: Scheduler) -> None:
        """Watch the scheduler that goes on with the runs of the one so far."""
        self._scheduler = scheduler
        check_scheduler(scheduler, self._resumed)

    def resumed(self, run: Run, anew: set[str]) -> None:
        """Let a run that has ended go on, and some of its steps start anew."""
        self._resumed.add(run.instance_id)
        self._outcomes.pop((run.instance_id, None))
        self._announced[f"start of {run.instance_id}"] = self._announced[f"end of {run.instance_id}"] = 0
        self._announced[f"end of {run.instance_id}"] += run.state.is_settled
        for name in anew:
            key = (run.instance_id, name)
            self._outcomes.pop(key, None)
            self._causes[key] = run.attempts[run.plan.index[name]]
        check_scheduler(self._scheduler, self._resumed)
        self._see_outcomes(run)  # of one that ends at once, because nothing of it has to start anew

    def see(self, event: Event, commands: list[Command]) -> None:
        """Check what followed from ``event``, and everything that must be true now."""
        assigned = [command for command in commands if isinstance(command, Assign)]
        if assigned:
            assert isinstance(event, StepsRequested), "nobody gets a step without having asked"
            assert {command.worker_id for command in assigned} == {event.worker_id}
            assert len(assigned) <= event.limit, "running steps never exceed the slots"
        for command in commands:
            if isinstance(command, Assign):
                self._see_assignment(command)
            elif isinstance(command, Finished):
                self._see_end(command)
            elif isinstance(command, Answer):
                assert isinstance(event, Reported)
                self._see_answer(event, command)
        check_scheduler(self._scheduler, self._resumed)
        for run in self._scheduler.runs.values():
            self._see_outcomes(run)

    def _see_assignment(self, command: Assign) -> None:
        assignment = command.assignment
        key = (assignment.instance_id, assignment.step_name)
        run = self._scheduler.run(assignment.instance_id)
        assert assignment.token not in self._tokens, "a token is never used again"
        assert key not in self._outcomes, "no start after an accepted outcome"
        self._tokens.add(assignment.token)
        self._starts[key] += 1
        assert assignment.attempt == assignment.payload.attempt == self._starts[key], (
            "attempt number = number of starts"
        )
        causes = 1 + self._causes[key] + run.restarts.get(run.plan.index[assignment.step_name], 0)
        assert assignment.attempt == causes, "extra starts have a recorded cause"
        if assignment.payload.starts_run:
            self._announced[f"start of {run.instance_id}"] += 1
        assert self._announced[f"start of {run.instance_id}"] == 1, "exactly one assignment starts a run"

    def _see_end(self, command: Finished) -> None:
        self._announced[f"end of {command.instance_id}"] += 1
        assert self._announced[f"end of {command.instance_id}"] == 1, "a run ends once"
        assert command.state is self._scheduler.run(command.instance_id).state

    def _see_answer(self, event: Reported, command: Answer) -> None:
        answer, report = command.answer, event.report
        if answer.status is not ReportStatus.ACCEPTED:
            assert (answer.step_state, answer.run_state, answer.delay) == (None, None, 0.0)
        elif report.state is State.READY:
            self._starts[report.instance_id, report.step_name] -= 1  # it was never begun
        elif answer.step_state is State.RETRYING:
            self._causes[report.instance_id, report.step_name] += 1

    def _see_outcomes(self, run: Run) -> None:
        for step, state in enumerate(run.states):
            if state.is_settled:
                outcome = (state, run.attempts[step], run.errors.get(step), run.causes.get(step))
                known = self._outcomes.setdefault((run.instance_id, run.plan.names[step]), outcome)
                assert known == outcome, "an accepted outcome never changes"
        if run.state.is_settled:
            end = (run.state, run.results)
            assert self._outcomes.setdefault((run.instance_id, None), end) == end, "a settled run never changes"
            assert self._announced[f"end of {run.instance_id}"] == 1, "the end of a run is told"


def check_scheduler(scheduler: Scheduler, resumed: Collection[str] = ()) -> None:
    """Check everything that must be true between two events.

    Args:
        resumed: runs that have gone on after their end: what had succeeded may be kept while what it came from is not.
    """
    live = scheduler._live
    held = [(token, worker) for worker, known in scheduler._workers.items() for token in known.held]
    assert sorted(held) == sorted((token, worker) for token, (worker, _, _) in live.items())
    waiting = {(id(entry[2]), entry[3]) for entry in scheduler._retries if scheduler._is_waiting(entry)}
    unsettled: Counter[str] = Counter()
    for run in scheduler.runs.values():
        check_run(scheduler, run, was_resumed=run.instance_id in resumed)
        unsettled[run.plan.workflow_id] += not run.state.is_settled
        retrying = {(id(run), step) for step, state in enumerate(run.states) if state is State.RETRYING}
        assert retrying <= waiting, "a retry that nothing waits for"
    for _, run, _ in live.values():
        assert scheduler.runs.get(run.instance_id) is run, "a token of a run that is gone"
    for workflow_id, flow in scheduler._flows.items():
        assert flow.unsettled == unsettled[workflow_id]


def check_run(scheduler: Scheduler, run: Run, *, was_resumed: bool = False) -> None:
    """Check what must be true of one run between two events."""
    for step, state in enumerate(run.states):
        check_step(run, step, state, was_resumed=was_resumed)
    assert not run.journal, "every move is followed"
    of_state = {state: {i for i, each in enumerate(run.states) if each is state} for state in State}
    assert run.running.keys() == of_state[State.RUNNING], "a step has a token exactly while it runs"
    for step, token in run.running.items():
        assert scheduler._live[token][1:] == (run, step)
    assert sorted(run.ready) == sorted(of_state[State.READY]), "what is ready is queued, once"
    if run.ready:
        queue = scheduler._flows[run.plan.workflow_id].ready
        assert run.queued
        assert run in queue._fresh or run in [each for *_, each in queue._started], "a ready run is in the queue"
    assert run.open_steps == sum(not state.is_settled for state in run.states)
    assert run.state.is_settled == (run.open_steps == 0), "a run is settled exactly when all its steps are"
    assert set(run.failed_steps) == of_state[State.FAILED]
    assert len(run.failed_steps) == len(of_state[State.FAILED])
    if run.cancelled or run.timed_out or (run.failed_steps and run.plan.stops_on_failure):
        assert not any(state in WAITING for state in run.states), "nothing waits in a run that stops"
    if run.state is State.SUCCEEDED:
        assert not run.failed_steps
    if run.state is State.FAILED:
        assert run.failed_steps or run.timed_out
    if run.state is State.CANCELLED:
        assert run.cancelled or any(run.states[step] is State.CANCELLED for step in run.unwanted)


def check_step(run: Run, step: int, state: State, *, was_resumed: bool = False) -> None:
    """Check what must be true of one step between two events."""
    name = run.plan.names[step]
    before = [run.states[other] for other in run.plan.predecessors[step]]
    succeeded = before.count(State.SUCCEEDED)
    assert run.missing[step] == len(before) - succeeded
    if state is State.PENDING:
        assert any(not each.is_settled for each in before), f"{name} waits on nothing"
    elif state in (State.SKIPPED, State.CANCELLED):
        assert run.causes.get(step), f"{name} is {state} without a cause"
    elif not (was_resumed and state is State.SUCCEEDED):
        assert succeeded == len(before), f"{name} is {state} before its dependencies are satisfied"
    if state in (State.RUNNING, State.RETRYING, State.SUCCEEDED, State.FAILED):
        assert run.attempts[step] >= 1
    assert (step in run.step_finished) == state.is_settled
    users = [i for i, sources in enumerate(run.bound.sources) if step in sources and not run.states[i].is_settled]
    needed = bool(users) or step in run.plan.outputs
    assert (step in run.results) == (state is State.SUCCEEDED and needed), f"the result of {name} is kept for nobody"
