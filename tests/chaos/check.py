"""The check of a history: what was lost, unexpected, duplicated, and at the same time.

What an attempt does is in the plan; whether it came to that is in the journal; what the broker made of it is in the
story of the run. An attempt that ended otherwise than planned needs somebody who did that to its process, or to its
engine. A step that starts again after its own last line was not necessarily told to have ended: the broker may not
know. It is duplicated where somebody had been told, or the broker has an earlier attempt as its last.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from fuseline.records import Move
from fuseline.states import State

from .history import SLACK, Found, History
from .journal import Line
from .plan import Act, Signal, StepPlan, Target, digest, final_states

__all__ = ["KINDS", "Violation", "check"]

KINDS = ("lost", "unexpected", "duplicated", "overlap", "left over")
#: Restarts after which a step is given up as one that ends its workers.
_MOST_RESTARTS = 10
#: Children in a row that end before they are ready, after which a step is given up that none could be had for.
_MOST_FAILED_STARTS = 3
#: Seconds for which a broker that could not write may be why a program ends, which ends its children first.
_REFUSING = 15.0
_DEADLY = (Signal.KILL, Signal.TERM)


class Violation(NamedTuple):
    """Something that must not be."""

    kind: str  #: one of KINDS
    whom: str
    what: str


def check(history: History) -> list[Violation]:
    """Return all that is wrong with a history."""
    violations = [*_check_told(history), *_check_programs(history)]
    for run, found in history.found.items():
        violations += _check_run(history, run, found)
        for step in history.plan(found.number).steps:
            lines = history.attempts.get((run, step.name), [])
            moves = [move for move in found.moves if move.step_name == step.name]
            violations += _check_alone(run, step, lines)
            violations += _check_starts(history, run, step, lines, moves)
            stops_early = _first_failure(history, found) not in (None, step.name)
            violations += _StepCheck(history, run, found.number, step, lines, stops_early).violations(moves)
    return violations


def _first_failure(history: History, found: Found) -> str | None:
    """Return the step whose failure has stopped a run, if one has."""
    failed = [move.step_name for move in found.moves if move.state is State.FAILED and move.step_name is not None]
    return failed[0] if failed and not history.plan(found.number).goes_on else None


# -- what somebody was told -------------------------------------------------------------------------------------------


def _check_told(history: History) -> Iterator[Violation]:
    """What was acknowledged is there."""
    for line in history.of_kind("acked"):
        if line.run not in history.found:
            yield Violation("lost", line.run, f"run number {line.attempt} was dispatched, and is gone")
    for line in history.of_kind("settled"):
        found = history.found.get(line.run)
        if found is not None and found.state != line.text:
            yield Violation("lost", line.run, f"it was told to be {line.text}, and is {found.state}")
    for heard in history.heard:
        found = history.found.get(heard.run)
        if found is None:
            yield Violation("lost", heard.run, f"{heard.step or 'it'} was told to be {heard.state}, and is gone")
            continue
        state = found.state if heard.step is None else found.steps[heard.step]
        if state is not heard.state:
            whom = heard.run if heard.step is None else f"{heard.run} {heard.step}"
            yield Violation("lost", whom, f"it was told to be {heard.state}, and is {state}")


def _check_programs(history: History) -> Iterator[Violation]:
    """Programs that are kept end when they were killed, or when their broker could not write; not otherwise."""
    for end in history.ends:
        is_killed = history.has_hit(_DEADLY, -math.inf, end.at, end.pid)
        is_refused = history.has_hit_some(Target.BROKER, (Signal.FULL,), end.at - _REFUSING, end.at)
        if end.name == "driver" and end.code != 0:
            yield Violation("unexpected", end.name, f"it ended with {end.code}. See driver.log")
        elif end.name != "driver" and not (is_killed or is_refused):
            yield Violation("unexpected", end.name, f"process {end.pid} ended with {end.code}. See {end.name}.log")


# -- a run ------------------------------------------------------------------------------------------------------------


def _check_run(history: History, run: str, found: Found) -> Iterator[Violation]:
    plan = history.plan(found.number)
    unsettled = [name for name, state in found.steps.items() if not state.is_settled]
    if unsettled or not found.state.is_settled:
        yield Violation("lost", run, f"{plan.name}: it is {found.state}, and has not settled {', '.join(unsettled)}")
        return
    failed = {name for name, state in found.steps.items() if state is State.FAILED}
    for name, allowed in final_states(plan, failed).items():
        if found.steps[name] not in allowed:
            yield Violation("unexpected", f"{run} {name}", f"it is {found.steps[name]}, though {failed} failed")
    yield from _check_stopped(run, found, _first_failure(history, found))
    expected = State.FAILED if failed else State.SUCCEEDED
    if found.state is not expected:
        yield Violation("unexpected", run, f"it is {found.state}, though {failed or 'no step'} failed")
    elif found.state is State.SUCCEEDED and found.result != digest(plan.result(history.seed, found.number)):
        yield Violation("unexpected", run, f"its result is wrong: {found.result!r:.100}")


def _check_stopped(run: str, found: Found, first_failure: str | None) -> Iterator[Violation]:
    """Nothing begins any more in a run that a failure has stopped."""
    is_stopped = False
    for move in found.moves:
        is_stopped |= first_failure is not None and (move.step_name, move.state) == (first_failure, State.FAILED)
        if is_stopped and move.state is State.RUNNING:
            yield Violation("unexpected", f"{run} {move.step_name}", f"it was begun after {first_failure} had failed")


# -- the starts of a step ---------------------------------------------------------------------------------------------


def _check_alone(run: str, step: StepPlan, lines: Sequence[Line]) -> Iterator[Violation]:
    """No two attempts ran at a time, as they have seen themselves, and as their times say."""
    whom = f"{run} {step.name}"
    for line in lines:
        if line.kind == "met":
            yield Violation("overlap", whom, f"attempt {line.attempt} began while one before had not ended")
        elif line.kind == "wrong":
            yield Violation("unexpected", whom, f"attempt {line.attempt}: {line.text}")
    started: set[int] = set()
    for before, after in pairwise([line for line in lines if line.kind in ("start", "end")]):
        if before.kind == "start":
            started.add(before.attempt)
        if after.kind == "end" and before.attempt != after.attempt and after.attempt in started:
            yield Violation("overlap", whom, f"attempt {after.attempt} ended after attempt {before.attempt} had begun")


def _check_starts(
    history: History, run: str, step: StepPlan, lines: Sequence[Line], moves: Sequence[Move]
) -> Iterator[Violation]:
    """Nothing started unknown to the broker, nor after it was settled, and no attempt twice."""
    whom = f"{run} {step.name}"
    starts = [line for line in lines if line.kind == "start"]
    for attempt, count in Counter(line.attempt for line in starts).items():
        if count > 1:
            yield Violation("duplicated", whom, f"attempt {attempt} started {count} times")
    settled = [move for move in moves if move.state.is_settled]
    if len(settled) > 1:
        yield Violation("duplicated", whom, f"it was settled {len(settled)} times")
    last = settled[0].attempt if settled else None
    told_at = history.told_at.get((run, step.name), math.inf)
    given = {move.attempt for move in moves if move.state is State.RUNNING}
    for line in starts:
        if line.attempt not in given:
            yield Violation("lost", whom, f"attempt {line.attempt} started, and the broker knows nothing of it")
        if last is not None and line.attempt > last:
            yield Violation("duplicated", whom, f"attempt {line.attempt} started, and it was settled by {last}")
        if line.at > told_at:
            yield Violation("duplicated", whom, f"attempt {line.attempt} started after its outcome was told")


# -- the ends of its attempts -----------------------------------------------------------------------------------------


class _StepCheck:
    """Follows the moves of a step, and looks for the reason of each.

    Args:
        stops_early: whether another step has stopped the run, so that this one may not be tried again.
    """

    def __init__(
        self, history: History, run: str, number: int, step: StepPlan, lines: Sequence[Line], stops_early: bool
    ) -> None:
        self._history = history
        self._number = number
        self._step = step
        self._whom = f"{run} {step.name}"
        self._stops_early = stops_early
        self._starts = {line.attempt: line for line in reversed(lines) if line.kind == "start"}
        self._ends = {line.attempt: line for line in reversed(lines) if line.kind == "end"}
        self._failures: Counter[int] = Counter()  #: {attempt: how often it was counted as one}
        self._restarts = 0

    def violations(self, moves: Sequence[Move]) -> Iterator[Violation]:
        given: Move | None = None
        for move in moves:
            if move.state is State.RUNNING:
                if given is not None:
                    yield self._unexpected(move, "it was given to another worker while it was running")
                given = move
            elif given is not None:
                yield from self._end(given, move)
                given = None
            elif move.state not in (State.READY, State.CANCELLED):
                yield self._unexpected(move, f"it went to {move.state} while nobody had it")
        for attempt, count in self._failures.items():
            if count > 1:
                yield Violation("duplicated", self._whom, f"attempt {attempt} was counted as {count} failures")

    def _unexpected(self, move: Move, what: str) -> Violation:
        return Violation("unexpected", f"{self._whom} attempt {move.attempt}", what)

    def _end(self, given: Move, move: Move) -> Iterator[Violation]:
        """Judge how an attempt has ended."""
        attempt = given.attempt or 0
        if move.state in (State.RETRYING, State.FAILED):
            failure_of = int(move.cause.rpartition(" ")[2]) if move.cause.startswith("PlannedError: ") else attempt
            self._failures[failure_of] += 1
            yield from self._check_budget(move)
            if reason := self._why_not_failed(given, move):
                yield self._unexpected(given, f"{move.state} by {move.cause!r}: {reason}")
        elif move.state is State.SUCCEEDED:
            end = self._ends.get(attempt)
            if end is None or end.text != Act.RETURN:
                yield self._unexpected(given, "it succeeded without having returned")
        elif move.state is State.READY and move.cause == "it was not begun":
            if given.attempt in self._starts and self._starts[attempt].at <= move.at:
                yield self._unexpected(given, "it was given back as not begun, and had begun")
        elif move.state is State.READY:
            self._restarts += 1
            if not self._has_lost_its_worker(given, move):
                yield self._unexpected(given, f"it starts again ({move.cause}), and its engine lives")
        elif move.state is not State.CANCELLED:
            yield self._unexpected(given, f"it went to {move.state}")

    def _check_budget(self, move: Move) -> Iterator[Violation]:
        retried = self._failures.total() - 1
        if move.state is State.RETRYING and retried >= self._step.retries:
            yield self._unexpected(move, f"it is tried again after {retried} of {self._step.retries} retries")
        is_short = retried < self._step.retries and not self._stops_early and not move.cause.startswith("StepLost")
        if move.state is State.FAILED and (is_short or retried > self._step.retries):
            yield self._unexpected(move, f"it is given up after {retried} of {self._step.retries} retries")

    def _why_not_failed(self, given: Move, move: Move) -> str:
        """Return why an attempt cannot have failed like this; empty if it can."""
        attempt = given.attempt or 0
        start, end = self._starts.get(attempt), self._ends.get(attempt)
        kind = move.cause.partition(":")[0]
        planned = self._step.act(self._history.seed, self._number, attempt)
        if kind == "PlannedError":
            is_so = end is not None and end.text == Act.RAISE and move.cause == f"PlannedError: attempt {attempt}"
            return "" if is_so else f"it was to {planned}"
        if kind == "StepCrashed":
            is_so = end is not None and end.text in (Act.CRASH, Act.EXIT)
            return "" if is_so or self._was_killed(start, given, move) else "nobody has killed its process"
        if kind == "StepTimedOut":
            return self._why_not_timed_out(planned, start, end, move)
        if kind == "StoreError":
            is_full = start is not None and self._history.has_hit((Signal.FULL,), start.at, move.at, start.pid)
            return "" if is_full else "there was room enough"
        if kind == "StepLost":
            is_so = self._restarts >= _MOST_RESTARTS or self._history.killed_unused(move.at) >= _MOST_FAILED_STARTS
            return "" if is_so else f"it was restarted {self._restarts} times, and children can start"
        return "nothing in the plan raises that"

    def _was_killed(self, start: Line | None, given: Move, move: Move) -> bool:
        if start is not None:
            return self._history.has_hit(_DEADLY, start.at, move.at, start.pid)
        return self._history.has_hit_some(Target.CHILD, _DEADLY, given.at, move.at)

    def _why_not_timed_out(self, planned: Act, start: Line | None, end: Line | None, move: Move) -> str:
        timeout = self._step.timeout
        if timeout is None:
            return "it has no timeout"
        if start is None:
            return "it has not begun"
        if move.at < start.at + timeout - SLACK:
            return f"it began only {move.at - start.at:.2f} s before"
        if planned is Act.HANG or self._history.has_hit((Signal.STOP,), start.at, move.at, start.pid):
            return ""
        took = (end.at if end is not None else move.at) - start.at
        return "" if took > timeout / 2 else f"it had ended after {took:.2f} s"

    def _has_lost_its_worker(self, given: Move, move: Move) -> bool:
        pid = self._history.engines.get((given.worker_id or "").partition(".")[0])
        if pid is None:
            return False
        return self._history.has_ended(pid, move.at) or self._history.has_hit(_DEADLY, given.at, move.at, pid)
