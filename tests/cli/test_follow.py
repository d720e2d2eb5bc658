"""How far some runs are, as the events of their broker tell it."""

from __future__ import annotations

import threading
from pathlib import Path

from fuseline import MemoryBroker, ProcessEngine, Step, Workflow
from fuseline.cli.follow import Follower, Tally
from fuseline.policies import RetryPolicy
from fuseline.states import State
from fuseline.testing.gate import HANG


class Once(Step):
    def run_step(self, x: int, marks: str) -> int:
        mark = Path(marks) / str(x)
        if x % 2 and not mark.exists():
            mark.touch()
            raise ConnectionError
        if x == 4:
            raise ValueError
        return x


def test_steps_and_runs_are_counted_even_if_they_ended_before_it_was_said_which(tmp_path: Path) -> None:
    broker = MemoryBroker()
    workflow = Workflow(outputs=[Once(policies=[RetryPolicy(1, retry_on=ConnectionError)])])
    ended = threading.Event()
    seen: list[tuple[Tally, Tally]] = []
    with Follower(broker, lambda steps, runs: seen.append((steps, runs)), ended.set) as follower:
        ids = broker.dispatch_many(workflow.to_schema(), [{"x": x, "marks": str(tmp_path)} for x in range(5)])
        others = broker.dispatch_many(workflow.to_schema(), [{"x": 4, "marks": str(tmp_path)}])
        ProcessEngine(broker, [workflow], executor="inline").work()
        follower.expect(ids)
        assert ended.wait(HANG)
    assert follower.runs == Tally(done=4, failed=1)
    assert follower.steps == Tally(done=4, failed=1, retried=2)
    assert seen[-1] == (follower.steps, follower.runs)
    assert others


def test_ends_that_were_not_heard_of_can_be_caught_up_with() -> None:
    states = {"a": State.SUCCEEDED, "b": State.RUNNING, "c": State.FAILED}
    ended = threading.Event()
    with Follower(MemoryBroker(), lambda steps, runs: None, ended.set) as follower:
        follower.catch_up(states.__getitem__)  # nothing is expected yet
        follower.expect(states, steps_done=3)
        follower.catch_up(states.__getitem__)
        assert (follower.runs, ended.is_set()) == (Tally(done=1), False)
        states["b"] = State.CANCELLED
        follower.catch_up(states.__getitem__)
    assert follower.runs == Tally(done=1, failed=1, cancelled=1)
    assert follower.steps == Tally(done=3)
    assert ended.is_set()
