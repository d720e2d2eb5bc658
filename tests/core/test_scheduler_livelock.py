"""The scheduler: a bug that moves steps in circles ends with an error, not in a loop."""

from __future__ import annotations

import pytest

from fuseline.encoding import encode
from fuseline.errors import EndlessMoves
from fuseline.messages import FailureDecision
from fuseline.scheduler import Moved, RunForgotten, Scheduler, core
from fuseline.scheduler.run import Run
from fuseline.states import State

from .helpers import Bench, dag, report_of


def test_steps_that_are_started_and_put_back_for_ever_end_with_their_history(monkeypatch):
    """Each turn of the circle is followed by the core, like the moves of an event are."""
    assign = Scheduler._assign

    def assign_and_put_back(self, worker_id, run, step, now):
        while True:
            assign(self, worker_id, run, step, now)
            self._release(run.running[step])
            run.give_back(step, "planted", now)
            run.ready.remove(step)

    monkeypatch.setattr(Scheduler, "_assign", assign_and_put_back)
    bench = Bench(dag("a b>c"), watch=False)
    bench.dispatch()
    with pytest.raises(EndlessMoves, match="run r made more than 11 moves because of one event") as caught:
        bench.take()
    assert "READY, a RUNNING" in caught.value.history


def test_a_run_that_moves_in_circles_by_itself_ends_with_its_history(monkeypatch):
    """Nobody follows the moves here."""

    def give_back_and_start(self, step, cause, now):
        while True:
            self.make_ready(step, cause)
            self.ready.clear()
            self.start(step, 1, "w", now)

    monkeypatch.setattr(Run, "give_back", give_back_and_start)
    bench = Bench(dag("a b>c"), watch=False)
    bench.dispatch()
    with pytest.raises(EndlessMoves, match="run r made more than 11 moves") as caught:
        bench.hand_back(bench.take_one())
    assert caught.value.history.endswith("a RUNNING, a READY, a RUNNING")


def test_the_history_is_short_however_large_the_run_is(monkeypatch):
    bench = Bench(dag(" ".join(f"s{i}" for i in range(100))), watch=False)
    monkeypatch.setattr(bench.scheduler, "_most_moves", -1000)
    with pytest.raises(EndlessMoves) as caught:
        bench.dispatch()
    assert caught.value.history.count("READY") == 10


@pytest.mark.parametrize("most", [2, 1])
def test_as_many_moves_as_all_runs_can_make_are_no_circle_and_one_more_is(most, monkeypatch):
    bench = Bench(dag("a b"), watch=False)
    monkeypatch.setattr(bench.scheduler, "_most_moves", most - (3 * 2 + 2))
    if most == 2:
        bench.dispatch()
        assert bench.take_one().step_name == "a"
    else:
        with pytest.raises(EndlessMoves):
            bench.dispatch()


def test_the_history_tells_moves_of_the_run_too(monkeypatch):
    bench = Bench(dag("a"), watch=False)
    bench.dispatch()
    monkeypatch.setattr(bench.scheduler, "_most_moves", 1)
    with pytest.raises(EndlessMoves) as caught:
        bench.take()
    assert caught.value.history.endswith("the last: RUNNING, a RUNNING")


def moves_of(bench: Bench) -> dict[str | None, int]:
    """Return how often each step, and the run, moved in the last event."""
    counts: dict[str | None, int] = {}
    for moved in bench.told(Moved):
        counts[moved.step_name] = counts.get(moved.step_name, 0) + 1
    return counts


def test_a_step_that_is_put_back_or_given_up_moves_twice_in_one_event_at_most():
    bench = Bench(dag("a b"))
    bench.scheduler.watched = True
    bench.dispatch()
    a, b = bench.take(2)
    bench.fail(a, decision=FailureDecision(FailureDecision.RETRY, 1.0))
    bench.now = 1.0
    bench.take()
    assert moves_of(bench) == {"a": 2}
    for _ in range(core.MAX_RESTARTS):
        bench.end_killed(b)
        b = bench.take_one()
    bench.leave()  # the first is put back; then the second has been restarted too often, and the run stops
    assert moves_of(bench) == {"a": 2, "b": 1, None: 1}


def test_the_most_that_a_step_can_move_in_one_event_is_three_times():
    bench = Bench(dag("a>b>c"))
    bench.scheduler.watched = True
    bench.dispatch()
    chain = bench.take(10, chains=True)
    bench.report_all([report_of(each, State.SUCCEEDED, result=encode(None)) for each in chain])
    assert moves_of(bench) == {"a": 1, "b": 3, "c": 3, None: 1}


def test_runs_that_are_forgotten_leave_the_limit_as_it_was():
    bench = Bench(dag("a>b"))
    bench.dispatch("kept")
    limit = bench.scheduler._most_moves
    assert limit == 3 * 2 + 2
    bench.dispatch("r")
    assert bench.scheduler._most_moves == 2 * limit
    bench.cancel("r")
    bench.handle(RunForgotten("r"))
    assert bench.scheduler._most_moves == limit
