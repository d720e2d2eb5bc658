"""Deadlines: whatever hangs is dead soon after, many at once in the time of one, and each attempt has one outcome."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from fuseline import ProcessEngine, StepTimedOut, Workflow
from fuseline.executors import LokyExecutor
from fuseline.messages import Outcome
from fuseline.policies import RetryPolicy, StepTimeoutPolicy
from fuseline.testing import Gate
from fuseline.testing.contract import Bench, is_running, result_of
from fuseline.testing.gate import HANG
from fuseline.testing.steps import Echo, SpinForever, WhereAmI

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from arena import BROKERS, brokers, end_of
from hostile import Good, Hostile
from late_ones import EndAtDeadline, HangAtFirst, HangOutOfReach

pytestmark = pytest.mark.usefixtures("checked")

#: Ways to hang: see ``hostile.DEEDS``.
HANGS = [
    "python loop",
    "C call that holds the GIL",
    "sleep",
    "lock",
    "ignores SIGTERM and swallows everything",
    "SIGSTOP",
]


@pytest.mark.parametrize("kind", BROKERS)
def test_all_ways_to_hang_at_once_end_while_other_steps_are_handed_out(kind: str) -> None:
    hostile = Workflow(outputs=[Hostile(policies=[StepTimeoutPolicy(0.5)])])
    good = Workflow(outputs=[Good()])
    with brokers(kind) as broker:
        runs = {deed: broker.dispatch_workflow(hostile.to_schema(), {"deed": deed}) for deed in HANGS}
        others = broker.dispatch_many(good.to_schema(), [{"value": i} for i in range(20)])
        ProcessEngine(broker, [hostile, good], processes=len(HANGS)).work()
        ends = {deed: end_of(broker, run) for deed, run in runs.items()}
        assert {deed for deed, end in ends.items() if isinstance(end, StepTimedOut) and end.killed} == set(HANGS)
        assert [end_of(broker, run) for run in others] == [2 * i for i in range(20)]


def test_many_that_ignore_sigterm_have_their_grace_side_by_side() -> None:
    """Each is told to end before the first one's grace is over."""
    hang, echo, grace = HangOutOfReach(), Echo(), 1.0
    with ExitStack() as gates_open, Bench(LokyExecutor(5, grace=grace), hang, echo) as bench:
        gates = [gates_open.enter_context(Gate()) for _ in range(4)]
        tokens = [bench.submit(hang, gate=gate) for gate in gates]
        pids = [int(gate.wait_entered()) for gate in gates]
        for gate in gates:
            gate.open()
        for token in tokens:
            bench.executor.kill(token)
        ends = [each.child._kill_at for each in bench.executor._slots if each.child]  # type: ignore[attr-defined]
        told = [end for end in ends if end is not None]
        assert len(told) == 4
        assert max(told) - min(told) < grace
        meanwhile = bench.submit(echo, value="meanwhile")
        reports = bench.collect(5)
        assert result_of(reports[meanwhile]) == "meanwhile"
        assert {reports[token].outcome for token in tokens} == {Outcome.KILLED}
        assert not any(map(is_running, pids))


def test_an_end_at_the_instant_of_the_deadline_has_one_outcome() -> None:
    """``collect`` refuses a second report."""
    step, echo = EndAtDeadline(policies=[StepTimeoutPolicy(0.05)]), Echo()
    with Bench(LokyExecutor(2), step, echo) as bench:
        reports = bench.run_all(step, [{"lateness": (i % 8 - 4) / 2000} for i in range(24)])
        assert len(reports) == 24
        for report in reports:
            assert report.outcome in (Outcome.RETURNED, Outcome.TIMED_OUT)
            assert (report.result is not None) is (report.outcome is Outcome.RETURNED)
        assert result_of(bench.run(echo, value=1)) == 1
        assert bench.executor.poll() == []


def test_a_report_that_is_there_at_the_deadline_counts() -> None:
    """The program looks only after the deadline: the child has ended its attempt long before."""
    step = Echo(policies=[StepTimeoutPolicy(0.5)])
    with Bench(LokyExecutor(1), step) as bench:
        assert result_of(bench.run(step, value=0)) == 0
        token = bench.submit(step, value=1)
        [place] = bench.executor._slots  # type: ignore[attr-defined]
        child = place.child
        assert child is not None
        assert select.select([child.fileno()], [], [], HANG)[0]  # its report is there, and nobody has read it
        place._due = time.monotonic()
        place.look(time.monotonic() + 3600)
        assert bench.collect(1)[token].outcome is Outcome.RETURNED


@pytest.mark.parametrize("kind", BROKERS)
def test_a_retry_has_a_fresh_deadline_and_starts_when_the_old_process_is_dead(kind: str, tmp_path: Path) -> None:
    step = HangAtFirst(policies=[RetryPolicy(1), StepTimeoutPolicy(2.0)])
    workflow = Workflow(outputs=[step])
    with brokers(kind) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"path": str(tmp_path / "pid")})
        ProcessEngine(broker, [workflow], processes=2).work()
        assert end_of(broker, run) is False
        assert broker.get_run(run).steps["HangAtFirst"].attempts == 2


@pytest.mark.parametrize("executor", ["threads", "inline"])
@pytest.mark.parametrize("kind", BROKERS)
def test_where_nothing_can_be_killed_a_loop_is_interrupted(kind: str, executor: str) -> None:
    spin = Workflow(outputs=[SpinForever(policies=[StepTimeoutPolicy(0.1)])])
    where = Workflow(outputs=[WhereAmI()])
    with brokers(kind) as broker:
        bad = broker.dispatch_workflow(spin.to_schema())
        good = broker.dispatch_workflow(where.to_schema())
        ProcessEngine(broker, [spin, where], processes=2, executor=executor).work()
        error = end_of(broker, bad)
        assert isinstance(error, StepTimedOut)
        assert not error.killed
        assert end_of(broker, good)[0] == os.getpid()
