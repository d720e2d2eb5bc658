"""Children that do not start, do not begin, or cannot be had: others do the work, and nothing goes round and round."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fuseline.errors import NotPicklableError, StepLost
from fuseline.executors import LokyExecutor, slot
from fuseline.executors.pickling import pickle_hosted
from fuseline.messages import Outcome
from fuseline.processes import guardian
from fuseline.step import Step
from fuseline.testing import Gate
from fuseline.testing.contract import Bench, error_of, result_of
from fuseline.testing.gate import HANG
from fuseline.testing.steps import Echo, Hold, WhereAmI


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[object]]:
    """Count the calls of a method of ``Slot``."""
    calls: list[object] = []
    method = getattr(slot.Slot, name)

    def counted(self: slot.Slot, *args: object) -> object:
        calls.append(args)
        return method(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(slot.Slot, name, counted)
        yield calls


def test_an_assignment_is_not_moved_while_its_child_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Echo()
    with counting(monkeypatch, "put") as puts, Bench(LokyExecutor(2), step) as bench:
        assert result_of(bench.run(step, value=1)) == 1
    assert len(puts) == 1


def test_it_is_moved_to_a_child_that_is_idle() -> None:
    quick, hold = Echo(), Hold()
    with Gate() as gate, Bench(LokyExecutor(2), quick, hold) as bench:
        held = bench.submit(hold, gate=gate)
        gate.wait_entered()
        late = bench.submit(quick, value=1)  # the second child has to start for it
        gate.open()
        reports = bench.collect(2)
        assert result_of(reports[held]) == "let go"
        assert result_of(reports[late]) == 1


def test_children_that_never_start_are_not_started_for_ever(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter starts with it
    step = Echo()
    with counting(monkeypatch, "start") as starts, Bench(LokyExecutor(2), step) as bench:
        reports = bench.run_all(step, [{"value": i} for i in range(4)])
    assert {type(error_of(report)) for report in reports} == {StepLost}
    assert len(starts) <= 10


def test_where_one_more_process_is_refused_those_that_are_there_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    make_child, made = slot.Child, []

    def make_one(*args: object) -> slot.Child:
        if made:
            raise OSError("no more")
        made.append(make_child(*args))  # type: ignore[arg-type]
        return made[0]

    monkeypatch.setattr(slot, "Child", make_one)
    step = WhereAmI()
    with Bench(LokyExecutor(3), step) as bench:
        assert bench.executor.free_slots() == 3
        pids = {result_of(report)[0] for report in bench.run_all(step, [{}] * 30)}
    assert pids == {made[0].pid}


def test_where_no_process_is_to_be_had_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no more processes today")

    monkeypatch.setattr(slot, "Child", refuse)
    step = Echo()
    with Bench(LokyExecutor(2), step) as bench:
        error = error_of(bench.run(step, value=1))
    assert isinstance(error, StepLost)
    assert "no more processes today" in str(error)


def test_what_a_stopped_child_does_not_begin_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    where = WhereAmI()
    with Bench(LokyExecutor(1), where) as bench:
        pid, _ = result_of(bench.run(where))
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(slot, "_BEGINNING_ALLOWANCE", 0.1)
        token = bench.submit(where)
        monkeypatch.setattr(slot, "_BEGINNING_ALLOWANCE", 60.0)
        other, _ = result_of(bench.collect(1)[token])
        assert other != pid


def test_close_hears_what_has_ended() -> None:
    step, hold = Echo(), Hold()
    with Gate() as gate:
        with Bench(LokyExecutor(1), step, hold) as bench:
            bench.run(step, value=1)
            token = bench.submit(hold, gate=gate)
            gate.wait_entered()
            gate.open()
            readable, _, _ = select.select([bench.executor.fileno()], [], [], HANG)
            assert readable
        [report] = bench.executor.poll()
    assert (report.token, report.outcome) == (token, Outcome.RETURNED)


def test_recall_gives_back_what_was_not_begun() -> None:
    quick, hold = Echo(), Hold()
    with Gate() as gate, Bench(LokyExecutor(1), quick, hold) as bench:
        bench.run_all(quick, [{"value": 0}] * 20)
        held, behind = bench.submit(hold, gate=gate), bench.submit(quick, value=1)
        gate.wait_entered()
        bench.executor.recall()
        report = bench.collect(1)[behind]
        assert (report.outcome, report.started) == (Outcome.LOST, None)
        gate.open()
        assert result_of(bench.collect(1)[held]) == "let go"


def test_a_guardian_that_cannot_be_started_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("no more processes today")

    step = Echo()
    with monkeypatch.context() as patch:
        patch.setattr(guardian.subprocess, "Popen", refuse)
        with pytest.raises(OSError, match="no more processes today"):
            Bench(LokyExecutor(1), step)
    assert guardian._users == 0
    with Bench(LokyExecutor(1), step) as bench:
        assert result_of(bench.run(step, value=1)) == 1


class LeavesThread(Step):
    def setup(self) -> None:
        threading.Thread(target=threading.Event().wait).start()

    def run_step(self) -> int:
        return 1


def test_a_child_that_does_not_exit_is_killed_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slot, "_CLOSING_GRACE", 0.1)
    step = LeavesThread()
    with Bench(LokyExecutor(1), step) as bench:
        assert result_of(bench.run(step)) == 1
    [record] = caplog.records
    assert "a step has left a thread" in record.getMessage()


class PickledOnceMore(Step):
    """Cannot be pickled when it is pickled first."""

    tries = 0

    def __getstate__(self) -> dict[str, object]:
        type(self).tries += 1
        if type(self).tries == 1:
            raise ValueError("not now")
        return self.__dict__

    def run_step(self) -> None:
        pass


def test_a_workflow_that_cannot_be_pickled_is_named_when_no_part_of_it_is_to_blame() -> None:
    step = PickledOnceMore()
    with pytest.raises(NotPicklableError, match=r"workflow 'w' to a child process[^']*not now"):
        pickle_hosted("w", {"s": (step, ())})
    assert step.tries == 2
