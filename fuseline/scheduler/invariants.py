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


def check_scheduler(scheduler: Scheduler) -> None:
    """Check all runs, and what is known of workers, tokens, queues and retries.

    Raises:
        InvariantBroken: one of the rules does not hold.
    """
    live = scheduler._live
    held = [(token, worker) for worker, known in scheduler._workers.items() for token in known.held]
    _must(
        "the workers", "hold the live tokens", sorted(held) == sorted((t, worker) for t, (worker, _, _) in live.items())
    )
    waiting = {(id(entry[2]), entry[3]) for entry in scheduler._retries if scheduler._is_waiting(entry)}
    unsettled: Counter[str] = Counter()
    for run in scheduler.runs.values():
        check_run(scheduler, run)
        unsettled[run.plan.workflow_id] += not run.state.is_settled
        retrying = {(id(run), step) for step, state in enumerate(run.states) if state is State.RETRYING}
        _must(_name(run), "has no retry that nothing waits for", retrying <= waiting)
    for _, run, _ in live.values():
        _must(_name(run), "is there if one of its tokens is", scheduler.runs.get(run.instance_id) is run)
    for workflow_id, flow in scheduler._flows.items():
        _must(f"workflow {workflow_id}", "counts its open runs", flow.unsettled == unsettled[workflow_id])


def check_run(scheduler: Scheduler, run: Run) -> None:
    """Check one run.

    Raises:
        InvariantBroken: one of the rules does not hold.
    """
    whom = _name(run)
    for step, state in enumerate(run.states):
        _check_step(run, step, state)
    of_state = {state: {i for i, each in enumerate(run.states) if each is state} for state in State}
    _must(whom, "has all its moves followed", not run.journal)
    _must(whom, "has a token exactly for each step that runs", run.running.keys() == of_state[State.RUNNING])
    for step, token in run.running.items():
        _must(whom, "is whom its tokens stand for", scheduler._live[token][1:] == (run, step))
    _must(whom, "queues what is ready, once", sorted(run.ready) == sorted(of_state[State.READY]))
    if run.ready:
        queue = scheduler._flows[run.plan.workflow_id].ready
        is_there = run in queue._fresh or run in [each for *_, each in queue._started]
        _must(whom, "is in the queue if it has something ready", run.queued and is_there)
    _must(whom, "counts its open steps", run.open_steps == sum(not state.is_settled for state in run.states))
    _must(whom, "is settled exactly when all its steps are", run.state.is_settled == (run.open_steps == 0))
    _must(whom, "lists its failed steps, once", sorted(run.failed_steps) == sorted(of_state[State.FAILED]))
    if run.is_stopping:
        _must(whom, "has nothing that waits when it stops", not any(state in _WAITING for state in run.states))
    if run.state is State.SUCCEEDED:
        _must(whom, "has not succeeded with a failed step", not run.failed_steps)
    if run.state is State.FAILED:
        _must(whom, "has not failed without a reason", bool(run.failed_steps or run.timed_out))
    if run.state is State.CANCELLED:
        unwanted = any(run.states[step] is State.CANCELLED for step in run.unwanted)
        _must(whom, "was not cancelled without being asked", run.cancelled or unwanted)


def _check_step(run: Run, step: int, state: State) -> None:
    whom = f"step {run.plan.names[step]!r} of {_name(run)}"
    before = [run.states[other] for other in run.plan.predecessors[step]]
    succeeded = before.count(State.SUCCEEDED)
    _must(whom, "counts what it waits for", run.missing[step] == len(before) - succeeded)
    if state is State.PENDING:
        _must(whom, "does not wait on nothing", any(not each.is_settled for each in before))
    elif state in (State.SKIPPED, State.CANCELLED):
        _must(whom, f"is not {state} without a cause", bool(run.causes.get(step)))
    elif not (run.was_restored and state is State.SUCCEEDED):  # in a resumed run, what it came from may start anew
        _must(whom, f"is not {state} before its dependencies are satisfied", succeeded == len(before))
    if state in (State.RUNNING, State.RETRYING, State.SUCCEEDED, State.FAILED):
        _must(whom, f"is not {state} without having started", run.attempts[step] >= 1)
    _must(whom, "has an end exactly when it is settled", (step in run.step_finished) == state.is_settled)
    users = (i for i, sources in enumerate(run.bound.sources) if step in sources and not run.states[i].is_settled)
    is_needed = step in run.plan.outputs or any(True for _ in users)
    has_result = state is State.SUCCEEDED and is_needed
    _must(whom, "keeps its result exactly while somebody needs it", (step in run.results) == has_result)


def _name(run: Run) -> str:
    return f"run {run.instance_id}"


def _must(whom: str, rule: str, holds: bool) -> None:
    if not holds:
        raise InvariantBroken(whom, rule)
