"""What waits in a child behind another assignment: it is begun once, somewhere, whatever becomes of that other one."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from fuseline import Step
from fuseline.executors import LokyExecutor
from fuseline.messages import Outcome
from fuseline.policies import RetryPolicy, StepTimeoutPolicy
from fuseline.testing import Gate
from fuseline.testing.contract import Bench, result_of
from fuseline.testing.steps import Echo, Hold, StuckInC, WhereAmI

from .queued_steps import Log, ReturnsLock, Size


def begun(log: Log) -> Counter[str]:
    path = Path(log.path)
    return Counter(path.read_text().split()) if path.exists() else Counter()


def warm_up(bench: Bench, step: Step) -> None:
    """Let the executor see that steps are short."""
    bench.run_all(step, [{"name": "warm"}] * 20 if isinstance(step, Log) else [{}] * 20)


def test_a_child_gets_more_than_one_only_while_steps_are_short() -> None:
    quick = Echo()
    with Bench(LokyExecutor(2), quick) as bench:
        assert bench.executor.free_slots() == 2
        warm_up(bench, quick)
        assert bench.executor.free_slots() > 2


def test_what_waits_behind_a_long_step_goes_to_an_idle_child() -> None:
    quick, hold, where = Echo(), Hold(), WhereAmI()
    with Gate() as first, Gate() as second, Bench(LokyExecutor(2), quick, hold, where) as bench:
        warm_up(bench, quick)
        holds = [bench.submit(hold, gate=gate) for gate in (first, second)]
        behind = [bench.submit(where) for _ in range(bench.executor.free_slots())]
        assert len(behind) >= 2
        pid = int(first.wait_entered())
        second.wait_entered()
        first.open()
        reports = bench.collect(1 + len(behind))  # the second still holds its child
        assert {result_of(reports[token])[0] for token in behind} == {pid}
        second.open()
        reports |= bench.collect(1)
        assert [result_of(reports[token]) for token in holds] == ["let go", "let go"]


def test_nothing_more_is_put_behind_steps_that_take_long() -> None:
    quick, hold, where = Echo(), Hold(), WhereAmI()
    with Gate() as first, Gate() as second, Bench(LokyExecutor(2), quick, hold, where) as bench:
        warm_up(bench, quick)
        tokens = [bench.submit(hold, gate=gate) for gate in (first, second)]
        first.wait_entered()
        second.wait_entered()
        behind = [bench.submit(where) for _ in range(2)]
        while bench.executor.free_slots():  # until both have taken long
            assert bench.executor.poll() == []
        first.open()
        assert set(bench.collect(3)) == {tokens[0], *behind}
        second.open()
        bench.collect(1)


@pytest.mark.parametrize("end", ["killed", "timed out", "crashed"])
def test_what_waits_behind_a_step_that_is_ended_runs_once(end: str, tmp_path: Path) -> None:
    log, hold, stuck = Log(tmp_path / "log"), Hold(), StuckInC(policies=[StepTimeoutPolicy(0.05)])
    with Gate() as gate, Bench(LokyExecutor(1), log, hold, stuck) as bench:
        warm_up(bench, log)
        bad = bench.submit(stuck) if end == "timed out" else bench.submit(hold, gate=gate)
        behind = [bench.submit(log, name=f"n{i}") for i in range(bench.executor.free_slots())]
        assert behind
        if end != "timed out":
            pid = int(gate.wait_entered())
            if end == "killed":
                bench.executor.kill(bad)
            else:
                os.kill(pid, signal.SIGKILL)
        reports = bench.collect(1 + len(behind))
        outcome = {"killed": Outcome.KILLED, "timed out": Outcome.TIMED_OUT, "crashed": Outcome.LOST}[end]
        assert reports[bad].outcome is outcome
        assert [result_of(reports[token]) for token in behind] == [f"n{i}" for i in range(len(behind))]
        assert begun(log) == Counter({"warm": 20, **{f"n{i}": 1 for i in range(len(behind))}})


def test_one_that_waits_can_be_killed_alone(tmp_path: Path) -> None:
    log, hold = Log(tmp_path / "log"), Hold()
    with Gate() as gate, Bench(LokyExecutor(1), log, hold) as bench:
        warm_up(bench, log)
        first = bench.submit(hold, gate=gate)
        doomed, spared = bench.submit(log, name="doomed"), bench.submit(log, name="spared")
        gate.wait_entered()
        bench.executor.kill(doomed)
        assert bench.executor.deadline() == 0.0  # nothing will become readable
        report = bench.collect(1)[doomed]
        assert (report.outcome, report.started) == (Outcome.KILLED, None)
        gate.open()
        reports = bench.collect(2)
        assert result_of(reports[first]) == "let go"
        assert result_of(reports[spared]) == "spared"
        assert begun(log)["doomed"] == 0


def test_close_hands_back_what_waits(tmp_path: Path) -> None:
    log, hold = Log(tmp_path / "log"), Hold()
    with Gate() as gate:
        with Bench(LokyExecutor(1), log, hold) as bench:
            warm_up(bench, log)
            first, behind = bench.submit(hold, gate=gate), bench.submit(log, name="behind")
            gate.wait_entered()
        reports = {report.token: report for report in bench.executor.poll()}
    assert reports[first].outcome is Outcome.KILLED
    assert (reports[behind].outcome, reports[behind].started) == (Outcome.LOST, None)
    assert begun(log)["behind"] == 0


def test_a_last_poll_after_close_returns_all_however_many(tmp_path: Path) -> None:
    log, hold = Log(tmp_path / "log"), Hold()
    with Gate() as gate:
        with Bench(LokyExecutor(1), log, hold) as bench:
            warm_up(bench, log)
            bench.submit(hold, gate=gate)
            bench.executor.submit([bench.assign(log, name="behind") for _ in range(100)])
            gate.wait_entered()
        assert len(bench.executor.poll()) == 101


# -- many reports at once ---------------------------------------------------------------------------------------------


def hear(bench: Bench, count: int) -> None:
    """Let the executor hear of so many ends, of which it returns none yet."""
    executor = bench.executor
    assert isinstance(executor, LokyExecutor)
    while len(executor._reports) < count:
        select.select([executor.fileno()], [], [], 0.01)
        executor._hear()


def test_a_poll_returns_some_of_many_reports_and_what_is_left_takes_room() -> None:
    quick = Echo()
    with Bench(LokyExecutor(1), quick) as bench:
        warm_up(bench, quick)
        room = bench.executor.free_slots()
        bench.executor.submit([bench.assign(quick) for _ in range(100)])
        hear(bench, 100)
        assert bench.executor.free_slots() == room - 100
        first, second = bench.executor.poll(), bench.executor.poll()
        assert 0 < len(first) < 100
        assert len(first) + len(second) == 100
        assert bench.executor.free_slots() == room


def test_a_failure_is_returned_at_once_whatever_came_before_it(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    with Bench(LokyExecutor(1), log) as bench:
        warm_up(bench, log)
        deeds = ["return"] * 99 + ["raise"]
        bench.executor.submit([bench.assign(log, name="one", deed=deed) for deed in deeds])
        hear(bench, 100)
        assert [report.outcome for report in bench.executor.poll()] == [Outcome.RETURNED] * 99 + [Outcome.RAISED]


def test_time_in_the_queue_does_not_count() -> None:
    quick, hold, timed = Echo(), Hold(), WhereAmI(policies=[StepTimeoutPolicy(0.2)])
    with Gate() as gate, Bench(LokyExecutor(1), quick, hold, timed) as bench:
        warm_up(bench, quick)
        bench.submit(hold, gate=gate)
        behind = bench.submit(timed)
        gate.wait_entered()
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            assert bench.executor.poll() == []
        gate.open()
        assert bench.collect(2)[behind].outcome is Outcome.RETURNED


@pytest.mark.parametrize("seed", range(3))
def test_among_crashes_kills_and_timeouts_each_is_begun_once(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    log = Log(tmp_path / "log", policies=[StepTimeoutPolicy(0.5)])
    deeds = chance.choices(["return", "dawdle", "die", "garble", "hang"], [90, 5, 2, 2, 1], k=250)
    with Bench(LokyExecutor(3), log) as bench:
        warm_up(bench, log)
        tokens: dict[int, int] = {}
        reports = {}
        while len(reports) < len(deeds):
            while len(tokens) < len(deeds) and bench.executor.free_slots():
                number = len(tokens)
                tokens[bench.submit(log, name=f"n{number}", deed=deeds[number])] = number
            if chance.random() < 0.03:
                bench.executor.kill(chance.choice(list(tokens)))
            reports |= bench.collect(1)
        starts = begun(log)
    for token, report in reports.items():
        deed, count = deeds[tokens[token]], starts[f"n{tokens[token]}"]
        if report.outcome is Outcome.KILLED:
            assert count <= (report.started is not None)  # it may be killed before its first line
        else:
            expected = {"die": Outcome.LOST, "hang": Outcome.TIMED_OUT}.get(deed, Outcome.RETURNED)
            assert (report.outcome, count) == (expected, 1)


def test_large_arguments_are_sent_once_and_one_after_the_other() -> None:
    step = Size()
    data = bytes(5_000_000)
    with Bench(LokyExecutor(2), step) as bench:
        bench.run_all(step, [{"data": b""}] * 50)
        before = memory()
        reports = bench.run_all(step, [{"data": data}] * 40)
        grown = memory() - before
    assert [result_of(report) for report in reports] == [len(data)] * 40
    assert grown < 50 * len(data)  # the arguments themselves are 40 of them, and they live in the bench


def memory() -> int:
    return psutil.Process().memory_info().rss


def test_what_waits_is_given_back_when_its_run_has_failed_in_its_child(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    with Bench(LokyExecutor(1), log) as bench:
        warm_up(bench, log)
        names = ["one", "two", "three", "four"]
        tokens = [bench.submit(log, name=name, deed="raise" if name == "two" else "return") for name in names]
        reports = bench.collect(4)
        outcomes = [(reports[token].outcome, reports[token].started is None) for token in tokens]
        assert outcomes == [
            (Outcome.RETURNED, False),
            (Outcome.RAISED, False),
            (Outcome.LOST, True),
            (Outcome.LOST, True),
        ]
        assert result_of(bench.run(log, name="after")) == "after"  # its program knows of the failure
    assert not {"three", "four"} & begun(log).keys()


def test_one_that_waits_can_be_recalled() -> None:
    quick, hold = Echo(), Hold()
    with Gate() as gate, Bench(LokyExecutor(1), quick, hold) as bench:
        warm_up(bench, quick)
        held = bench.submit(hold, gate=gate)
        first, second = (bench.submit(quick, value=i) for i in range(2))
        gate.wait_entered()
        bench.executor.recall([first, held])
        gate.open()
        reports = bench.collect(3)
    assert (reports[first].outcome, reports[first].started) == (Outcome.LOST, None)
    assert result_of(reports[held]) == "let go"  # it was begun
    assert result_of(reports[second]) == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_a_retry_of_what_does_not_travel_runs_in_a_new_child(retries: int, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    step, good = ReturnsLock(policies=[RetryPolicy(retries)]), Echo()
    with Bench(LokyExecutor(1), step, good) as bench:
        for attempt in range(1, retries + 2):
            report = bench.run(step, attempt=attempt, path=str(path))
            assert report.error is not None
        assert result_of(bench.run(good, value=1)) == 1
    assert len(set(path.read_text().split())) == retries + 1
