"""Assignments that follow others: each goes on in the same child, at once, if the one before it has returned."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from fuseline.executors import LokyExecutor
from fuseline.messages import AttemptReport, Outcome, StepAssignment
from fuseline.policies import StepTimeoutPolicy
from fuseline.testing import Gate
from fuseline.testing.contract import Bench, result_of
from fuseline.testing.steps import Hold
from fuseline.values import COMING

from .queued_steps import Grow, Log, Where


def chain(bench: Bench, *assignments: StepAssignment) -> list[StepAssignment]:
    """Return assignments each of which follows the one before it."""
    follows = [None, *(each.token for each in assignments[:-1])]
    return [replace(each, follows=token) for each, token in zip(assignments, follows, strict=True)]


def growing(bench: Bench, step: Grow, count: int, deed: str = "return", at: int = -1) -> list[StepAssignment]:
    """Return a chain of steps each of which adds to the result of the one before; one of them does something else."""
    first = bench.assign(step, value=[], deed=deed if at == 0 else "return")
    rest = [bench.assign(step, value=None, deed=deed if place == at else "return") for place in range(1, count)]
    coming = {"value": COMING}
    rest = [
        replace(each, payload=replace(each.payload, arguments={**each.payload.arguments, **coming})) for each in rest
    ]
    return chain(bench, first, *rest)


def run(bench: Bench, assignments: list[StepAssignment]) -> list[AttemptReport]:
    bench.executor.submit(assignments)
    reports = bench.collect(len(assignments))
    return [reports[each.token] for each in assignments]


def not_begun(reports: list[AttemptReport]) -> bool:
    return all(report.outcome is Outcome.LOST and report.started is None for report in reports)


def test_each_gets_the_result_of_the_one_before_it_in_the_same_child() -> None:
    step = Grow()
    with Bench(LokyExecutor(2), step) as bench:
        reports = run(bench, growing(bench, step, 50))
        values = list(map(result_of, reports))
        assert [len(value) for value in values] == list(range(1, 51))
        assert len(set(values[-1])) == 1
        times = [time for report in reports for time in (report.started, report.ended) if time is not None]
        assert len(times) == 100
        assert times == sorted(times)


def test_each_of_several_chains_goes_to_another_child() -> None:
    step = Grow()
    with Bench(LokyExecutor(2), step) as bench:
        bench.run_all(step, [{"value": []}] * 20)  # so that it sees that steps are short
        bench.executor.submit([*growing(bench, step, 60), *growing(bench, step, 60)])
        assert [len(slot.queue) for slot in bench.executor._slots] == [60, 60]
        bench.collect(120)


def test_results_come_in_among_others_too() -> None:
    step = Where()
    with Bench(LokyExecutor(1), step) as bench:
        first, second = bench.assign(step), bench.assign(step)
        arguments = {"parts": (first.payload.arguments.get("none", COMING), COMING)}
        second = replace(second, payload=replace(second.payload, arguments=arguments))
        _, report = run(bench, chain(bench, first, second))
        assert result_of(report) == ["a", "a"]


@pytest.mark.parametrize("deed", ["raise", "die", "hang", "exit"])
def test_what_follows_one_that_does_not_return_is_handed_back(deed: str) -> None:
    step = Grow(policies=[StepTimeoutPolicy(0.1)])
    with Bench(LokyExecutor(1, grace=0.0), step) as bench:
        reports = run(bench, growing(bench, step, 5, deed, at=2))
        assert [len(result_of(report)) for report in reports[:2]] == [1, 2]
        bad = {"raise": Outcome.RAISED, "die": Outcome.LOST, "hang": Outcome.TIMED_OUT, "exit": Outcome.RAISED}[deed]
        assert reports[2].outcome is bad
        assert reports[2].started is not None
        assert not_begun(reports[3:])
        again = run(bench, growing(bench, step, 3))
        assert [len(result_of(report)) for report in again] == [1, 2, 3]


def test_what_was_begun_before_a_kill_is_killed_and_what_was_not_is_handed_back() -> None:
    step, hold = Grow(), Hold()
    with Gate() as gate, Bench(LokyExecutor(1), step, hold) as bench:
        first, second = bench.assign(step, value=[]), bench.assign(hold, gate=gate)
        third, fourth = bench.assign(step, value=[]), bench.assign(step, value=[])
        bench.executor.submit(chain(bench, first, second, third, fourth))
        gate.wait_entered()
        bench.executor.kill(second.token)
        reports = bench.collect(4)
        assert result_of(reports[first.token])
        assert reports[second.token].outcome is Outcome.KILLED
        assert not_begun([reports[third.token], reports[fourth.token]])


def test_one_that_is_killed_before_its_turn_takes_along_what_follows_it() -> None:
    step, hold = Grow(), Hold()
    with Gate() as gate, Bench(LokyExecutor(1), step, hold) as bench:
        first, second = bench.assign(hold, gate=gate), bench.assign(step, value=[])
        third, other = bench.assign(step, value=[]), bench.assign(step, value=[])
        bench.executor.submit([*chain(bench, first, second, third), other])
        gate.wait_entered()
        bench.executor.kill(second.token)
        reports = bench.collect(2)
        assert reports[second.token].outcome is Outcome.KILLED
        assert reports[second.token].started is None
        assert not_begun([reports[third.token]])
        gate.open()
        reports = bench.collect(2)
        assert result_of(reports[first.token]) == "let go"
        assert result_of(reports[other.token])


def test_a_recall_hands_back_what_was_not_begun() -> None:
    step, hold = Grow(), Hold()
    with Gate() as gate, Bench(LokyExecutor(1), step, hold) as bench:
        first, second = bench.assign(hold, gate=gate), bench.assign(step, value=[])
        bench.executor.submit(chain(bench, first, second))
        gate.wait_entered()
        bench.executor.recall()
        assert not_begun([bench.collect(1)[second.token]])
        gate.open()
        assert result_of(bench.collect(1)[first.token]) == "let go"


def test_what_waits_behind_a_chain_that_takes_long_is_taken_back_and_so_is_the_chain() -> None:
    step, hold = Grow(), Hold()
    with Gate() as gate, Bench(LokyExecutor(1), step, hold) as bench:
        bench.run_all(step, [{"value": []}] * 20)  # so that it sees that steps are short
        first, second = bench.assign(hold, gate=gate), bench.assign(step, value=[])
        bench.executor.submit(chain(bench, first, second))
        behind = bench.submit(step, value=[])
        gate.wait_entered()
        assert not_begun([bench.collect(1)[second.token]])
        gate.open()
        reports = bench.collect(2)
        assert result_of(reports[first.token]) == "let go"
        assert result_of(reports[behind])


def test_a_chain_waits_for_its_long_step_if_nothing_else_does() -> None:
    step, hold = Grow(), Hold()
    with Gate() as gate, Bench(LokyExecutor(2), step, hold) as bench:
        first, second = bench.assign(hold, gate=gate), bench.assign(step, value=[])
        bench.executor.submit(chain(bench, first, second))
        gate.wait_entered()
        assert bench.executor.deadline() is not None
        while (due := bench.executor.deadline()) is not None and due <= time.monotonic() + 0.05:
            assert bench.poll() == {}
        for _ in range(3):  # it looks, and looks again
            due = bench.executor.deadline()
            assert due is not None
            while bench.executor.deadline() == due:
                assert bench.poll() == {}
        gate.open()
        reports = bench.collect(2)
        assert result_of(reports[second.token])


def test_what_follows_something_that_is_not_there_is_handed_back_at_once() -> None:
    step = Grow()
    with Bench(LokyExecutor(1), step) as bench:
        first, second, third = growing(bench, step, 3)
        assert not_begun(run(bench, [second, third]))
        assert result_of(run(bench, [first])[0])
        assert not_begun(run(bench, [second_again(second)]))


def second_again(assignment: StepAssignment) -> StepAssignment:
    return replace(assignment, token=assignment.token + 1000)


def test_a_large_result_does_not_stay_in_a_child() -> None:
    """It is in a file, if there is a place for files."""
    step = Grow()
    with Bench(LokyExecutor(1), step) as bench:
        reports = run(bench, growing(bench, step, 3, "large", at=0))
        assert len(result_of(reports[0])) > 32 * 1024
        assert not_begun(reports[1:])


def test_a_child_that_has_served_enough_hands_back_the_rest() -> None:
    step = Grow()
    with Bench(LokyExecutor(1, max_steps_per_child=2), step) as bench:
        reports = run(bench, growing(bench, step, 5))
        assert [len(result_of(report)) for report in reports[:2]] == [1, 2]
        assert not_begun(reports[2:])


def test_a_child_that_is_killed_between_two_keeps_what_has_ended(tmp_path: Path) -> None:
    step, hold, log = Grow(), Hold(), Log(tmp_path / "log")
    with Gate() as gate, Bench(LokyExecutor(1), step, hold, log) as bench:
        assignments = [bench.assign(log, name="n1"), bench.assign(hold, gate=gate), bench.assign(log, name="n2")]
        bench.executor.submit(chain(bench, *assignments))
        os.kill(int(gate.wait_entered()), signal.SIGKILL)
        reports = bench.collect(3)
        first, second, third = (reports[each.token] for each in assignments)
        assert result_of(first) == "n1"
        assert second.outcome is Outcome.LOST
        assert second.started is not None
        assert not_begun([third])
        assert (tmp_path / "log").read_text() == "n1\n"
