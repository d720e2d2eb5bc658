"""What must be true of a scheduler between two events.

The rules are written against what the scheduler keeps, so that a wrong entry is seen when it is made and not when it
does harm. Checking them looks at every run and step, so a scheduler does it only if it is told to.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fuseline.errors import InvariantBroken
from fuseline.scheduler.run import Run
from fuseline.states import State

if TYPE_CHECKING:
    from fuseline.scheduler.core import Scheduler

__all__ = ["check_run", "check_scheduler"]

_WAITING = (State.PENDING, State.READY, State.RETRYING)
_BEGUN = (State.RUNNING, State.RETRYING, State.SUCCEEDED, State.FAILED)


def check_scheduler(scheduler: Scheduler) -> None:
    """Check all runs, and what is known of workers, tokens, queues and retries.

    Raises:
        InvariantBroken: one of the rules does not hold.
    """
    live = scheduler._live
    held = [(token, worker) for worker, known in scheduler._workers.items() for token in known.held]
    if sorted(held) != sorted((token, worker) for token, (worker, _, _) in live.items()):
        raise InvariantBroken("the scheduler", "knows what workers hold exactly by its live tokens")
    waiting = {(id(entry[2]), entry[3]) for entry in scheduler._retries}
    unsettled: Counter[str] = Counter()
    for run in scheduler.runs.values():
        check_run(scheduler, run)
        unsettled[run.plan.workflow_id] += not run.state.is_settled
        retrying = {(id(run), step) for step, state in enumerate(run.states) if state is State.RETRYING}
        if not retrying <= waiting:
            raise _broken(run, "has no retry that nothing waits for")
    for _, run, _ in live.values():
        if scheduler.runs.get(run.instance_id) is not run:
            raise _broken(run, "is there as long as one of its tokens is")
    for workflow_id, flow in scheduler._flows.items():
        if flow.unsettled != unsettled[workflow_id]:
            raise InvariantBroken(f"workflow {workflow_id}", "counts its open runs")


def check_run(scheduler: Scheduler, run: Run) -> None:
    """Check one run.

    Raises:
        InvariantBroken: one of the rules does not hold.
    """
    for step, state in enumerate(run.states):
        _check_step(run, step, state)
    of_state = {state: {i for i, each in enumerate(run.states) if each is state} for state in State}
    if run.journal:
        raise _broken(run, "has all its moves followed")
    if run.running.keys() != of_state[State.RUNNING]:
        raise _broken(run, "has a token exactly for each step that runs")
    if any(scheduler._live[token][1:] != (run, step) for step, token in run.running.items()):
        raise _broken(run, "is what its tokens stand for")
    if sorted(run.ready) != sorted(of_state[State.READY]):
        raise _broken(run, "queues what is ready, once")
    for step, (token, worker) in run.promised.items():
        before = [other for other in run.plan.predecessors[step] if run.states[other] is not State.SUCCEEDED]
        who = [run.promised[other][1] if other in run.promised else run.workers.get(other) for other in before]
        if run.states[step] is not State.PENDING or token in scheduler._live or who != [worker]:
            raise _broken(run, "promises a step only to who runs, or will run, the one it waits for", step)
    if run.promised and (run.is_stopping or run.state.is_settled):
        raise _broken(run, "promises nothing when it stops")
    if run.ready:
        queue = scheduler._flows[run.plan.workflow_id].ready
        if not (run.queued and run in [each for *_, each in queue._heap]):
            raise _broken(run, "is in the queue if it has something ready")
    if run.open_steps != sum(not state.is_settled for state in run.states):
        raise _broken(run, "counts its open steps")
    if run.state.is_settled != (run.open_steps == 0):
        raise _broken(run, "is settled exactly when all its steps are")
    if sorted(run.failed_steps) != sorted(of_state[State.FAILED]):
        raise _broken(run, "lists its failed steps, once")
    if run.is_stopping and any(state in _WAITING for state in run.states):
        raise _broken(run, "has nothing that waits when it stops")
    if run.state is State.SUCCEEDED and run.failed_steps:
        raise _broken(run, "has not succeeded with a failed step")
    if run.state is State.FAILED and not (run.failed_steps or run.timed_out):
        raise _broken(run, "has not failed without a reason")
    if run.state is State.CANCELLED and not run.cancelled:  # noqa: SIM102
        if not any(run.states[step] is State.CANCELLED for step in run.unwanted):
            raise _broken(run, "was not cancelled without being asked")


def _check_step(run: Run, step: int, state: State) -> None:
    before = [run.states[other] for other in run.plan.predecessors[step]]
    succeeded = before.count(State.SUCCEEDED)
    if run.missing[step] != len(before) - succeeded:
        raise _broken(run, "counts what it waits for", step)
    if state is State.PENDING:
        if all(each.is_settled for each in before):
            raise _broken(run, "does not wait on nothing", step)
    elif state in (State.SKIPPED, State.CANCELLED):
        if not run.causes.get(step):
            raise _broken(run, f"is not {state} without a cause", step)
    elif succeeded != len(before) and not (run.was_restored and state is State.SUCCEEDED):
        # (In a run that was resumed, what a step came from may start anew.)
        raise _broken(run, f"is not {state} before its dependencies are satisfied", step)
    if state in _BEGUN and run.attempts[step] < 1:
        raise _broken(run, f"is not {state} without having started", step)
    if (step in run.step_finished) != state.is_settled:
        raise _broken(run, "has an end exactly when it is settled", step)
    users = [i for i, sources in enumerate(run.bound.sources) if step in sources and not run.states[i].is_settled]
    is_needed = bool(users) or step in run.plan.outputs
    if (step in run.results) != (state is State.SUCCEEDED and is_needed):
        raise _broken(run, "keeps its result exactly while somebody needs it", step)


def _broken(run: Run, rule: str, step: int | None = None) -> InvariantBroken:
    whom = f"run {run.instance_id}"
    return InvariantBroken(whom if step is None else f"step {run.plan.names[step]!r} of {whom}", rule)
