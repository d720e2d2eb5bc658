"""Bugs to plant in a scheduler, each of which the random histories must find: tests of the tests.

Each function plants one, and says in its docstring what users would see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from fuseline.messages import StepAssignment
from fuseline.scheduler import Kill, Recall, Scheduler, archive, core
from fuseline.scheduler.ready import ReadyRuns
from fuseline.scheduler.run import Run
from fuseline.states import State

__all__ = ["PLANTED"]

Plant = Callable[[pytest.MonkeyPatch], None]


# -- tokens and leases ------------------------------------------------------------------------------------------------


def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report counts for whatever attempt of its step runs now."""

    token_of = Scheduler.token_of

    def token_of_any(self: Scheduler, worker_id: str, report: Any) -> int | None:
        return token_of(self, worker_id, replace(report, token=None))

    monkeypatch.setattr(Scheduler, "token_of", token_of_any)


def no_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report counts whoever sends it."""
    hear = Scheduler._hear

    def as_if_by_the_holder(self: Scheduler, worker_id: str, report: Any, now: float) -> Any:
        for holder, run, step in self._live.values():
            if run.instance_id == report.instance_id and run.plan.names[step] == report.step_name:
                worker_id = holder
        return hear(self, worker_id, report, now)

    monkeypatch.setattr(Scheduler, "_hear", as_if_by_the_holder)


def leases_that_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker held is lost with it."""

    def worker_left(self: Scheduler, event: Any, now: float) -> None:
        for flow in self._workers.pop(event.worker_id).flows:
            flow.workers -= 1

    monkeypatch.setattr(Scheduler, "_worker_left", worker_left)


def finished_while_a_sibling_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends with its first failure."""
    finish = Run.finish_if_done

    def finish_early(self: Run, now: float) -> bool:
        if self.failed_steps and not self.state.is_settled:
            self.open_steps = 0
        return finish(self, now)

    monkeypatch.setattr(Run, "finish_if_done", finish_early)


def claim_that_leaves_the_step_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was handed out stays in the queue."""
    start = Run.start

    def start_and_keep(self: Run, step: int, token: int, worker_id: str, now: float) -> None:
        start(self, step, token, worker_id, now)
        self.ready.append(step)

    monkeypatch.setattr(Run, "start", start_and_keep)


def dependents_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on a failed or skipped step waits for ever."""
    monkeypatch.setattr(Run, "_give_up_dependents", lambda *args: None)


def retries_that_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry that is due is forgotten."""
    monkeypatch.setattr(Scheduler, "_is_waiting", staticmethod(lambda entry: False))


def not_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was queued once is never queued again."""
    add = ReadyRuns.add

    def add_fresh_ones(self: ReadyRuns, run: Run) -> None:
        if run.state is State.PENDING:
            add(self, run)

    monkeypatch.setattr(ReadyRuns, "add", add_fresh_ones)


def a_result_dropped_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result goes when the first of its users has settled."""
    settle = Run._settle

    def settle_and_drop(self: Run, step: int, *args: Any) -> None:
        settle(self, step, *args)
        for source in self.bound.sources[step]:
            self.results.pop(source, None)

    monkeypatch.setattr(Run, "_settle", settle_and_drop)


def a_hand_back_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was never begun has used up an attempt number."""
    give_back = Run.give_back

    def count_and_give_back(self: Run, step: int, cause: str, now: float) -> None:
        self.attempts[step] += cause == "it was not begun"
        give_back(self, step, cause, now)

    monkeypatch.setattr(Run, "give_back", count_and_give_back)


def a_retry_in_a_run_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run starts steps again."""
    monkeypatch.setattr(Run, "is_stopping", property(lambda self: False))


def tokens_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has one token for all its attempts."""
    assign = Scheduler._assign

    def assign_with_old_token(self: Scheduler, worker_id: str, run: Run, step: int, now: float) -> StepAssignment:
        self._last_token += run.number * 100 + step - self._last_token
        return assign(self, worker_id, run, step, now)

    monkeypatch.setattr(Scheduler, "_assign", assign_with_old_token)


def leases_that_survive_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that never came back to the next broker keeps its steps."""
    left = Scheduler._worker_left

    def leave_without_release(self: Scheduler, event: Any, now: float) -> None:
        if not self._workers[event.worker_id].is_registered:
            self._workers[event.worker_id].held.clear()
        left(self, event, now)

    monkeypatch.setattr(Scheduler, "_worker_left", leave_without_release)


def a_lease_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart, nobody is known to have the steps that run."""
    restored = Scheduler._run_restored

    def restore_without_workers(self: Scheduler, event: Any, now: float) -> None:
        restored(self, event, now)
        for token in self.runs[event.record.instance_id].running.values():
            self._workers[self._live.pop(token)[0]].held.pop(token)

    monkeypatch.setattr(Scheduler, "_run_restored", restore_without_workers)


def tokens_used_again_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late report of before the restart counts for a step of after it."""
    init = Scheduler.__init__

    def count_from_one(self: Scheduler, *args: Any, first_token: int = 1, **kwargs: Any) -> None:
        init(self, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "__init__", count_from_one)


# -- crashes and retries ----------------------------------------------------------------------------------------------


def no_limit_on_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that ends its engines is started for ever."""
    monkeypatch.setattr(core, "MAX_RESTARTS", 1_000_000)


def a_limit_on_crashes_one_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is started once more than promised."""
    monkeypatch.setattr(core, "MAX_RESTARTS", core.MAX_RESTARTS + 1)


def a_limit_on_crashes_one_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is given up too early."""
    monkeypatch.setattr(core, "MAX_RESTARTS", core.MAX_RESTARTS - 1)


def crashes_forgotten_in_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that ends broker and engines is started for ever."""
    _record_steps_with(monkeypatch, restarts=0)


def failures_forgotten_in_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries start from anew with each broker process."""
    _record_steps_with(monkeypatch, failures={})


def a_cancelled_step_revived_by_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody has cancelled is retried after a restart."""
    _record_steps_with(monkeypatch, unwanted=False)


def _record_steps_with(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    record_step = archive.record_step

    def record_less(run: Run, step: int, epoch: float) -> Any:
        return msgspec.structs.replace(record_step(run, step, epoch), **fields)

    monkeypatch.setattr(archive, "record_step", record_less)


def retries_that_come_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff is not waited for."""
    is_waiting = Scheduler._await_retry

    def await_less(self: Scheduler, run: Run, step: int) -> None:
        run.due[step] = max(0.0, run.due[step] - 0.5)
        is_waiting(self, run, step)

    monkeypatch.setattr(Scheduler, "_await_retry", await_less)


def failures_that_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that always fails is retried for ever."""
    retry = Run.retry
    monkeypatch.setattr(Run, "retry", lambda self, step, due, place: retry(self, step, due, None))


# -- stopping ---------------------------------------------------------------------------------------------------------


def a_failure_that_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in a run that has failed goes on waiting."""
    monkeypatch.setattr(Run, "_stop", lambda *args: None)


def cancelled_steps_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that runs when it is cancelled may be retried."""
    reject = Run.reject

    def reject_waiting_ones(self: Run, step: int, now: float) -> None:
        reject(self, step, now)
        if self.states[step] is State.RUNNING:
            self.unwanted.discard(step)

    monkeypatch.setattr(Run, "reject", reject_waiting_ones)


def nobody_is_told_to_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in a cancelled run runs to its end."""
    _say_no(monkeypatch, Kill)


def nobody_is_told_to_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in a child begins although its run has failed."""
    _say_no(monkeypatch, Recall)


def _say_no(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    handle = Scheduler.handle

    def handle_and_drop(self: Scheduler, event: Any, now: float) -> Any:
        return [command for command in handle(self, event, now) if not isinstance(command, kind)]

    monkeypatch.setattr(Scheduler, "handle", handle_and_drop)


def an_end_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observers hear of the end of a run with the answer, and once more."""
    finish = Scheduler._finish_if_done

    def finish_and_tell(self: Scheduler, run: Run, now: float, *, reported: bool = False) -> None:
        finish(self, run, now)

    monkeypatch.setattr(Scheduler, "_finish_if_done", finish_and_tell)


# -- chains -----------------------------------------------------------------------------------------------------------


def promises_that_survive_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would follow a step that has failed is waited for, though its worker has dropped it."""
    monkeypatch.setattr(Run, "promised_after", lambda self, step: None)


def promises_that_survive_a_hand_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its worker has handed back counts as started when the step before it succeeds."""
    hear = Scheduler._hear_of_promised

    def hear_and_keep(self: Scheduler, worker_id: str, report: Any) -> Any:
        run = self.runs.get(report.instance_id)
        promised = dict(run.promised) if run is not None else {}
        answer = hear(self, worker_id, report)
        if run is not None:
            run.promised = promised
        return answer

    monkeypatch.setattr(Scheduler, "_hear_of_promised", hear_and_keep)


def promises_that_survive_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows another step goes on in a run that was cancelled."""
    monkeypatch.setattr(Run, "break_promises", lambda self: [])


def nobody_is_told_of_a_broken_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was cancelled goes on, if it had begun and nobody had heard of it."""
    monkeypatch.setattr(Scheduler, "_kill_promised", lambda self, broken: None)


def a_promise_to_what_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step begins although others that it needs have not ended."""

    def any_next(self: Run, step: int) -> int | None:
        return next((after for after in self.plan.successors[step] if self.states[after] is State.PENDING), None)

    monkeypatch.setattr(Run, "only_next", any_next)


# -- order, and runs that go on ---------------------------------------------------------------------------------------


def breadth_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory grows with the width of a workflow."""
    make_ready = Run.make_ready

    def make_ready_last(self: Run, step: int, cause: str = "") -> None:
        make_ready(self, step, cause)
        self.ready.insert(0, self.ready.pop())

    monkeypatch.setattr(Run, "make_ready", make_ready_last)


def newer_runs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs never finish while others are dispatched."""
    init = Run.__init__

    def count_down(self: Run, instance_id: str, number: int, *args: Any) -> None:
        init(self, instance_id, 1_000_000 - number, *args)

    monkeypatch.setattr(Run, "__init__", count_down)


def a_resumed_run_that_lacks_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step starts anew without the results that it takes."""
    monkeypatch.setattr(archive, "_lacks_result", lambda known: False)


PLANTED: list[Plant] = [
    no_fence,
    no_holder,
    leases_that_survive,
    finished_while_a_sibling_runs,
    claim_that_leaves_the_step_ready,
    dependents_left_behind,
    retries_that_never_come,
    not_queued_again,
    a_result_dropped_too_early,
    a_hand_back_that_counts,
    a_retry_in_a_run_that_stops,
    tokens_used_twice,
    leases_that_survive_a_restart,
    a_lease_without_an_end,
    tokens_used_again_after_a_restart,
    no_limit_on_crashes,
    a_limit_on_crashes_one_too_high,
    a_limit_on_crashes_one_too_low,
    crashes_forgotten_in_a_restart,
    failures_forgotten_in_a_restart,
    a_cancelled_step_revived_by_a_restart,
    retries_that_come_early,
    failures_that_do_not_count,
    a_failure_that_stops_nothing,
    cancelled_steps_that_go_on,
    nobody_is_told_to_kill,
    nobody_is_told_to_give_back,
    an_end_told_twice,
    promises_that_survive_a_failure,
    promises_that_survive_a_hand_back,
    promises_that_survive_a_stop,
    nobody_is_told_of_a_broken_promise,
    a_promise_to_what_waits_for_more,
    breadth_first,
    newer_runs_first,
    a_resumed_run_that_lacks_results,
]
