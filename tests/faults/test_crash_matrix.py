"""Every moment in the life of an attempt, and every way to end there: only that step has the error."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fuseline import ProcessEngine, RunFailed, Step, StepCrashed, Workflow
from fuseline.errors import NotPicklableError
from fuseline.executors import LokyExecutor
from fuseline.testing import Gate
from fuseline.testing.contract import Bench, result_of
from fuseline.testing.steps import Echo, Hold, WhereAmI

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from arena import BROKERS, brokers, end_of, wait_for_end, working
from bombs import DEEDS, RAISED, Bomb, DiesOfSuccess, ForksAndDies, Make, MakeTimed, Run, Take, here

MOMENTS = ["argument unpickled", "step runs", "result pickled", "result unpickled", "result collected"]
#: {what the moment is about: what its crash says}; whether a result loads again is tried where it was pickled
PHASES = {"argument": "arguments", "step": "running", "result": "result"}
WORDS = {"arguments": "while its arguments were", "running": "while", "result": "while its result was"}
DEATHS = [deed for deed in DEEDS if deed not in RAISED]
#: In threads, and in the calling thread, it is this very process where a __del__ raises.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Ends(NamedTuple):
    """What a matrix of hostile steps has led to."""

    cells: dict[tuple[str, str], Any]  #: ``{(moment, deed): result or exception}``
    siblings: list[Any]  #: results of the good steps between them
    held: Any  #: result of a step that ran while all of them were ended
    whole: int  #: how many steps could run side by side afterwards


class Arena:
    """The workflows of a matrix, and what is dispatched of them."""

    def __init__(self) -> None:
        steps = {"step runs": Run(), "argument unpickled": Take(), "make": Make(), "good": Echo(), "hold": Hold()}
        self.workflows = {name: Workflow(outputs=[step], name=name) for name, step in steps.items()}

    def dispatch(self, broker: Any, name: str, **inputs: Any) -> str:
        run: str = broker.dispatch_workflow(self.workflows[name].to_schema(), inputs)
        return run

    def dispatch_cell(self, broker: Any, moment: str, deed: str) -> str:
        if moment == "step runs":
            return self.dispatch(broker, moment, deed=deed)
        if moment == "argument unpickled":
            return self.dispatch(broker, moment, bomb=Bomb("unpickled", deed, spares=here()))
        return self.dispatch(broker, "make", moment=moment.removeprefix("result "), deed=deed)


def run_matrix(kind: str, executor: str, deeds: list[str], processes: int = 3) -> Ends:
    """Run all cells between good steps, while one good step is in the middle of its work all the time."""
    arena = Arena()
    with ExitStack() as stack:
        broker = stack.enter_context(brokers(kind))
        gates = [stack.enter_context(Gate()) for _ in range(processes)]
        stack.enter_context(working(broker, list(arena.workflows.values()), processes=processes, executor=executor))
        held = arena.dispatch(broker, "hold", gate=gates[0])
        gates[0].wait_entered()
        siblings, cells = [], {}
        for moment in MOMENTS:
            for deed in deeds:
                cells[moment, deed] = arena.dispatch_cell(broker, moment, deed)
                siblings.append(arena.dispatch(broker, "good", value=len(siblings)))
        ends = {cell: end_of(broker, run) for cell, run in cells.items()}
        gates[0].open()
        side_by_side = [arena.dispatch(broker, "hold", gate=gate) for gate in gates]
        whole = len([gate.wait_entered() for gate in gates])
        for gate in gates:
            gate.open()
        assert [end_of(broker, run) for run in side_by_side] == ["let go"] * processes
        return Ends(ends, [end_of(broker, run) for run in siblings], end_of(broker, held), whole)


EVERYWHERE = [(executor, kind) for executor in ("loky", "threads") for kind in BROKERS]
IN_CHILDREN = [("loky", kind) for kind in BROKERS]


@cache
def matrix(executor: str, kind: str) -> Ends:
    """One run for all tests; the leak check of the first of them is for it."""
    return run_matrix(kind, executor, list(DEEDS) if executor == "loky" else RAISED)


@pytest.mark.parametrize("where", EVERYWHERE, ids="-".join)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("deed", RAISED)
def test_what_is_raised_becomes_the_error_of_its_step(where: tuple[str, str], moment: str, deed: str) -> None:
    check_raised(moment, deed, matrix(*where).cells[moment, deed])


def check_raised(moment: str, deed: str, end: Any) -> None:
    if moment == "result collected":
        assert end == f"defused {deed}"  # Python lets nobody know of what a __del__ raises
    elif deed == "KeyboardInterrupt":
        assert isinstance(end, StepCrashed)
        assert "raised KeyboardInterrupt" in str(end)
    elif moment in ("result pickled", "result unpickled"):
        assert isinstance(end, NotPicklableError)
        assert end.what == "the result of step 'Make'"
        assert {"Exception": "boom", "sys.exit": "SystemExit: 3"}[deed] in end.reason
        assert ("loaded again" in end.reason) is (moment == "result unpickled")
    elif deed == "sys.exit":
        assert isinstance(end, StepCrashed)
        assert end.exit_code == 3
        assert "sys.exit(3)" in str(end)
    else:
        assert isinstance(end, ValueError)
        assert str(end) == "boom"
        assert ("run_step" if moment == "step runs" else "_load") in str(end.__cause__)


@pytest.mark.parametrize("where", IN_CHILDREN, ids="-".join)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("deed", DEATHS)
def test_what_ends_the_process_is_named(where: tuple[str, str], moment: str, deed: str) -> None:
    """On the other executors it ends the program, which no library can help."""
    end = matrix(*where).cells[moment, deed]
    assert isinstance(end, StepCrashed)
    if deed.startswith("exit"):
        assert (end.exit_code, end.signal_name) == (int(deed.split()[1]), None)
    else:
        assert (end.exit_code, end.signal_name) == (None, deed)
    assert end.phase == PHASES[moment.split()[0]]
    assert (WORDS[end.phase] in str(end)) is (end.phase != "running")


@pytest.mark.parametrize("kind", BROKERS)
def test_what_ends_the_process_while_code_is_loaded_is_told_so(kind: str) -> None:
    step = Echo()
    step.bomb = Bomb("unpickled", "SIGKILL", spares=here())  # type: ignore[attr-defined]
    hostile = Workflow(outputs=[step], name="hostile")
    with brokers(kind) as broker:
        run = broker.dispatch_workflow(hostile.to_schema(), {"value": 1})
        ProcessEngine(broker, [hostile], processes=1).work()
        end = end_of(broker, run)
    assert isinstance(end, StepCrashed)
    assert (end.signal_name, end.phase) == ("SIGKILL", "loading")
    assert "died by SIGKILL while the code of its workflow was loaded." in str(end)


@pytest.mark.parametrize("step", [Echo(policies=[DiesOfSuccess()]), ForksAndDies()], ids=["policy", "fork"])
def test_what_a_policy_does_is_no_part_of_the_result_nor_is_what_a_fork_does(step: Step) -> None:
    with pytest.raises(RunFailed) as failure:
        Workflow(outputs=[step], name="hostile").run(processes=1)
    end = failure.value.__cause__
    assert isinstance(end, StepCrashed)
    assert (end.signal_name, end.phase) == ("SIGKILL", "running")


@pytest.mark.parametrize("where", EVERYWHERE, ids="-".join)
def test_siblings_succeed_and_the_pool_is_whole(where: tuple[str, str]) -> None:
    cells, siblings, held, whole = matrix(*where)
    assert siblings == list(range(len(cells)))
    assert held == "let go"
    assert whole == 3


@pytest.mark.parametrize("kind", BROKERS)
def test_what_is_raised_in_the_calling_thread_becomes_the_error_of_its_step(kind: str) -> None:
    arena = Arena()
    with brokers(kind) as broker:
        moments = [moment for moment in MOMENTS if moment != "argument unpickled"]  # dispatch has tried that, here
        cells = {(m, deed): arena.dispatch_cell(broker, m, deed) for m in moments for deed in RAISED}
        good = arena.dispatch(broker, "good", value="good")
        ProcessEngine(broker, list(arena.workflows.values()), executor="inline").work()
        ends = {cell: end_of(broker, run) for cell, run in cells.items()}
        assert end_of(broker, good) == "good"
    for moment, deed in ends:
        check_raised(moment, deed, ends[moment, deed])


# An argument is pickled, and tried to be unpickled, in the program that dispatches. Whoever ends the process there ends
# the user's own program, by his own hand and with his own arguments: nothing is there yet that could be contained, so
# those cells are left out.


@pytest.mark.parametrize("kind", BROKERS)
@pytest.mark.parametrize("moment", ["pickled", "unpickled"])
@pytest.mark.parametrize(("deed", "reason"), [("Exception", "boom"), ("sys.exit", "SystemExit: 3")])
def test_an_argument_that_does_not_travel_is_an_error_of_the_dispatch(
    kind: str, moment: str, deed: str, reason: str
) -> None:
    arena = Arena()
    with brokers(kind) as broker:
        with pytest.raises(NotPicklableError, match=reason) as caught:
            arena.dispatch(broker, "argument unpickled", bomb=Bomb(moment, deed))
        assert caught.value.what == "the input 'bomb'"
        assert broker.list_runs() == []
        good = arena.dispatch(broker, "good", value=1)
        ProcessEngine(broker, [arena.workflows["good"]], processes=1).work()
        assert end_of(broker, good) == 1


@pytest.mark.parametrize("kind", BROKERS)
def test_ctrl_c_while_an_argument_is_pickled_comes_through_and_nothing_is_dispatched(kind: str) -> None:
    arena = Arena()
    with brokers(kind) as broker:
        with pytest.raises(KeyboardInterrupt):
            arena.dispatch(broker, "argument unpickled", bomb=Bomb("pickled", "KeyboardInterrupt"))
        assert broker.list_runs() == []


def test_what_is_collected_after_the_result_was_sent_hurts_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    make, hold, where = MakeTimed(), Hold(), WhereAmI()
    with Gate() as gate, Gate() as after, Gate() as busy, Bench(LokyExecutor(2), make, hold, where) as bench:
        held = bench.submit(hold, gate=busy)
        busy.wait_entered()
        for deed in DEEDS:
            pid = result_of(bench.run(make, deed=deed, gate=gate, after=after))
            gate.wait_entered()
            gate.open()
            if deed in RAISED:
                after.wait_entered()
                after.open()
            else:
                wait_for_end(pid)
            then, _ = result_of(bench.run(where))
            assert (then == pid) is (deed in RAISED), deed
        busy.open()
        assert result_of(bench.collect(1)[held]) == "let go"
