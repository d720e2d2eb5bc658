"""What a step changes in its process, the next one there does not see; or it has another process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuseline import MemoryBroker, ProcessEngine, Step, Workflow
from fuseline.errors import WorkflowError
from fuseline.executors import LokyExecutor
from fuseline.messages import Outcome
from fuseline.policies import RetryPolicy
from fuseline.testing import Bench
from fuseline.testing.contract import result_of
from fuseline.testing.steps import Raise, WhereAmI
from fuseline.worker.housekeeper import Housekeeper
from fuseline.worker.surroundings import Surroundings

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from surroundings import LEFT, UNDONE, Change, Draw, HandleFromSetupOn, Idle, Look, OpenInSetup

CHANGE, LOOK = Change(), Look()


@pytest.fixture(scope="module")
def one_child() -> Iterator[Bench]:
    with Bench(LokyExecutor(1), CHANGE, LOOK) as bench:
        look(bench)  # so that the child is there before a test counts what it leaves
        yield bench


def look(bench: Bench) -> dict[str, Any]:
    seen: dict[str, Any] = result_of(bench.run(LOOK))
    return seen


@pytest.mark.parametrize("deed", UNDONE)
def test_what_a_step_changes_is_undone_before_the_next(one_child: Bench, deed: str) -> None:
    before = look(one_child)
    assert result_of(one_child.run(CHANGE, deed=deed)) == before["pid"]
    assert look(one_child) == before


@pytest.mark.parametrize("deed", UNDONE)
def test_without_isolation_it_would_be_seen(deed: str) -> None:
    """So the tests above can fail."""
    if deed == "timers":
        pytest.skip("they would end the child")
    with Bench(LokyExecutor(1, isolation=False), CHANGE, LOOK) as bench:
        before = look(bench)
        bench.run(CHANGE, deed=deed)
        report = bench.run(LOOK)
        assert report.outcome is not Outcome.RETURNED or result_of(report) != before


@pytest.mark.parametrize("deed", LEFT)
def test_a_child_in_which_something_is_left_is_replaced(deed: str, caplog: pytest.LogCaptureFixture) -> None:
    with Bench(LokyExecutor(1), CHANGE, LOOK) as bench:
        before = look(bench)
        for _ in range(2):
            spoilt = result_of(bench.run(CHANGE, deed=deed))
            after = look(bench)
            assert after["pid"] != spoilt
            of_the_child = {"pid": None, "descriptors": None}
            assert {**after, **of_the_child} == {**before, **of_the_child}
    [record] = caplog.records  # it is told once
    assert record.levelno == logging.WARNING
    assert "step 'Change' has" in record.getMessage()
    assert LEFT[deed] in record.getMessage()


def test_what_waited_behind_a_step_that_left_something_runs_elsewhere() -> None:
    workflow = Workflow(outputs=[Change()])
    broker = MemoryBroker()
    deeds = ["cwd", "daemon thread"] * 10
    runs = broker.dispatch_many(workflow.to_schema(), [{"deed": deed} for deed in deeds])
    ProcessEngine(broker, [workflow], processes=2).work()
    pids = [broker.result(run) for run in runs]
    spoilt = [pid for pid, deed in zip(pids, deeds, strict=True) if deed != "cwd"]
    assert len(set(spoilt)) == len(spoilt)


def test_what_setup_opens_and_changes_stays_for_its_step_alone(caplog: pytest.LogCaptureFixture) -> None:
    step = OpenInSetup()
    with Bench(LokyExecutor(1), step, LOOK) as bench:
        before = look(bench)
        for _ in range(3):
            assert result_of(bench.run(step)) == (before["pid"], False, "set up", "/")
            after = look(bench)
            assert after.pop("threads") == before["threads"] + 1
            assert after == {name: seen for name, seen in before.items() if name != "threads"}
    assert not caplog.records


def test_a_handler_that_setup_has_set_is_there_for_its_step_alone() -> None:
    step, idle = HandleFromSetupOn(), Idle()
    with Bench(LokyExecutor(1), step, idle, CHANGE) as bench:
        before = result_of(bench.run(idle))
        for count in (1, 2, 3):
            assert result_of(bench.run(step)) == count
            assert result_of(bench.run(idle)) == before
            if count > 1:
                bench.run(CHANGE, deed="cwd")


def test_a_process_that_cannot_be_put_back_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Surroundings, *, thoroughly: bool) -> None:
        raise OSError("operation not permitted")

    keeper = Housekeeper(isolation=True, max_steps=None, max_memory=None, on_wait=list)
    try:
        assert keeper.tidy_up(1.0) == ""
        monkeypatch.setattr(Surroundings, "restore", refuse)
        assert "cannot be undone (OSError: operation not permitted)" in keeper.tidy_up(1.0)
    finally:
        for fd in keeper._standard:
            os.close(fd)


class FailsInSetup(Step):
    def setup(self) -> None:
        os.environ["FUSELINE_TEST"] = "half set up"
        raise OSError("no such model")

    def run_step(self) -> None:
        raise AssertionError("must not run")


def test_what_a_setup_that_fails_has_changed_is_undone() -> None:
    step = FailsInSetup()
    with Bench(LokyExecutor(1), step, LOOK) as bench:
        before = look(bench)
        assert bench.run(step).outcome is Outcome.RAISED
        assert look(bench) == before


# -- seeds ------------------------------------------------------------------------------------------------------------


def draws(executor: LokyExecutor, count: int = 2) -> list[Any]:
    step = Draw()
    with Bench(executor, step) as bench:
        return [result_of(report) for report in bench.run_all(step, [{}] * count)]


def test_seeds_depend_on_run_and_step_alone() -> None:
    first, second = draws(LokyExecutor(1))  # in the first, numpy is imported in the middle of the attempt
    assert first == second
    [elsewhere] = draws(LokyExecutor(1), 1)
    assert elsewhere == first
    unseeded = draws(LokyExecutor(1, seeds=False))
    assert len({draw for pair in [first, *unseeded] for draw in pair[:2]}) == 6
    assert {seed for _, _, seed in unseeded} == {first[2]}


def test_other_runs_draw_other_numbers() -> None:
    workflow = Workflow(outputs=[Draw()])
    broker = MemoryBroker()
    runs = broker.dispatch_many(workflow.to_schema(), [{}] * 5)
    ProcessEngine(broker, [workflow], processes=1).work()
    assert len({broker.result(run)[0] for run in runs}) == 5


class Unlucky(Step):
    """Fails while what it draws is the same as before."""

    def __init__(self, path: str) -> None:
        super().__init__(policies=[RetryPolicy(1)])
        self.path = Path(path)

    def run_step(self) -> tuple[float, float]:
        import random

        drawn = random.random()
        if not self.path.exists():
            self.path.write_text(repr(drawn))
            raise ValueError("bad luck")
        return float(self.path.read_text()), drawn


def test_a_retry_draws_other_numbers(tmp_path: Path) -> None:
    first, second = Workflow(outputs=[Unlucky(str(tmp_path / "drawn"))]).run()
    assert first != second


# -- how long a child serves ------------------------------------------------------------------------------------------


def test_a_child_serves_as_many_steps_as_it_may() -> None:
    step = WhereAmI()
    with Bench(LokyExecutor(1, max_steps_per_child=3), step) as bench:
        pids = [result_of(report)[0] for report in bench.run_all(step, [{}] * 10)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3, 1]


def test_a_child_that_has_grown_too_large_is_replaced() -> None:
    step = WhereAmI()
    with Bench(LokyExecutor(1, max_child_memory=1), step) as bench:
        pids = [result_of(report)[0] for report in bench.run_all(step, [{}] * 3)]
    assert len(set(pids)) == 3
    with Bench(LokyExecutor(1, max_child_memory=1 << 40), step) as bench:
        pids = [result_of(report)[0] for report in bench.run_all(step, [{}] * 3)]
    assert len(set(pids)) == 1


def test_a_child_that_has_served_enough_tears_down_its_steps(tmp_path: Path) -> None:
    from fuseline.testing.steps import CountSetups

    step = CountSetups(str(tmp_path / "log"))
    with Bench(LokyExecutor(1, max_steps_per_child=2), step) as bench:
        assert [result_of(report) for report in bench.run_all(step, [{}] * 4)] == [1, 1, 1, 1]
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first != second  # they were in other processes
    assert first.startswith("torn down after 1 in ")
    assert second.startswith("torn down after 1 in ")


def test_a_failure_counts_as_a_step_served() -> None:
    step = Raise(policies=[RetryPolicy(5)])
    where = WhereAmI()
    with Bench(LokyExecutor(1, max_steps_per_child=2), step, where) as bench:
        first = result_of(bench.run(where))
        bench.run(step)
        assert result_of(bench.run(where)) != first


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", float("nan")])
@pytest.mark.parametrize("name", ["max_steps_per_child", "max_child_memory"])
def test_numbers_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    with pytest.raises(WorkflowError, match=f"{name}="):
        LokyExecutor(1, **{name: value})
