"""How an executor lives: slots, submitting, killing, giving back, closing, and the workplace it is given."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuseline.executors.base import Executor
from fuseline.messages import AttemptReport, Outcome
from fuseline.presence import Presence, is_gone
from fuseline.testing import steps
from fuseline.testing.bench import Bench, BenchContract, is_running, result_of
from fuseline.testing.gate import Gate
from fuseline.testing.promise import expect, not_asked, promise
from fuseline.wakeup import wait_readable
from fuseline.workplace import LARGE, Workplace

__all__ = ["LifeContract"]

#: Assignments beyond the slots that a test submits, to an executor that takes them.
_AHEAD = 3


def wait_gone(path: Path) -> None:
    """Wait until no process shows itself in a file: a helper that belongs to an executor may end a moment after it."""
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def is_readable(fd: int) -> bool:
    return bool(wait_readable([fd], 0.0))


class LifeContract(BenchContract):
    """The half of the contract about slots, kills, and the time from ``start`` to ``close``."""

    @contextlib.contextmanager
    def holding(self, number: int) -> Iterator[tuple[Bench, list[int], list[Gate]]]:
        """Start an executor and submit so many attempts of ``Hold``, if it has slots; gives tokens and gates."""
        step = steps.Hold()
        with self.bench(step, steps.Echo()) as bench, contextlib.ExitStack() as stack:
            gates = [stack.enter_context(self.gate()) for _ in range(min(number, bench.executor.free_slots()))]
            tokens = [bench.submit(step, gate=gate) for gate in gates]
            for gate in gates:
                gate.wait_entered()
            yield bench, tokens, gates

    def _asked_of_those_with_slots(self) -> None:
        if self.make_executor().runs_in_caller:
            not_asked("poll() of this executor runs the steps, so that none can be looked at meanwhile")

    # -- what it says of itself ---------------------------------------------------------------------------------------

    @promise("an executor has a name, states its abilities as True or False, and has one slot or more")
    def test_states_its_name_and_abilities(self) -> None:
        executor = self.make_executor()
        assert isinstance(getattr(executor, "name", None), str), "it has no name, by which a workflow could ask for it"
        for ability in ("kills", "isolates_crashes", "limits_memory", "pickles", "chains", "runs_in_caller"):
            expect(f"the type of {ability}", type(getattr(executor, ability)), bool)
        assert executor.processes >= 1, f"processes is {executor.processes}"

    # -- submitting ---------------------------------------------------------------------------------------------------

    @promise("submit() returns at once, and whatever becomes of the assignments comes out of poll()")
    def test_submit_and_poll_return_while_a_step_runs(self) -> None:
        self._asked_of_those_with_slots()
        with self.holding(1) as (bench, [token], [gate]):
            expect("the reports while the step waits", bench.poll(), {})
            gate.open()
            expect("the result", result_of(bench.collect(1)[token]), "let go")

    @promise("submit() of an executor that runs steps in the caller runs none; poll() does")
    def test_only_poll_runs_steps_in_the_caller(self) -> None:
        executor, step = self.make_executor(), steps.Mark()
        if not executor.runs_in_caller:
            not_asked("this executor does not run steps in the caller")
        with tempfile.TemporaryDirectory() as folder, self.bench_of(executor, step) as bench:
            path = os.path.join(folder, "mark")
            bench.submit(step, path=path)
            assert not os.path.exists(path), "the step has run before poll() was called"
            bench.collect(1)
            assert os.path.exists(path), "the step was reported, and has not run"

    @promise("an assignment takes one of free_slots() from submit() until its report")
    def test_an_assignment_takes_room_from_submit_to_report(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            free = bench.executor.free_slots()
            assert free >= 1, f"free_slots() is {free} when nothing runs"
            bench.submit(step, value=1)
            expect("free_slots() after one submit()", bench.executor.free_slots(), free - 1)
            bench.collect(1)
            left = bench.executor.free_slots()
            assert left >= free, f"free_slots() is {left} after the report, and was {free} before"

    @promise("as many assignments run side by side as there are slots")
    def test_slots_work_side_by_side(self) -> None:
        self._asked_of_those_with_slots()
        with self.holding(self.make_executor().processes) as (bench, tokens, gates):  # all in the middle now
            expect("how many run", len(tokens), bench.executor.processes)
            for gate in gates:
                gate.open()
            reports = bench.collect(len(tokens))
            expect("the results", [result_of(reports[token]) for token in tokens], ["let go"] * len(tokens))

    @promise("begun() names each assignment once, when its turn has come; None stands for all that were submitted")
    def test_begun_names_what_runs_once(self) -> None:
        self._asked_of_those_with_slots()
        with self.holding(2) as (bench, tokens, gates):
            named = bench.executor.begun()
            if named is not None:
                expect("what was begun while all submitted steps run", sorted(named), tokens)
                expect("what was begun since", list(bench.executor.begun() or ()), [])
            for token, gate in zip(tokens, gates, strict=True):
                bench.let_go(gate, token)
            expect("what was begun after that", list(bench.executor.begun() or ()), [])

    # -- giving back --------------------------------------------------------------------------------------------------

    @promise("recall() gives back what was not begun, each reported as LOST without a time of start; the rest goes on")
    def test_recall_gives_back_what_was_not_begun(self) -> None:
        self._asked_of_those_with_slots()
        hold, quick = steps.Hold(), steps.Echo()
        with self.bench(hold, quick) as bench, contextlib.ExitStack() as stack:
            bench.run_all(quick, [{"value": i} for i in range(50)])  # who likes to have more at hand does so now
            running, waiting = self._fill(bench, hold, stack)
            bench.executor.recall([10**6])
            expect("the reports after the recall of an unknown token", bench.poll(), {})
            bench.executor.recall()
            for report in bench.collect(len(waiting)).values() if waiting else ():
                assert report.token in waiting, f"a report on assignment {report.token}, which runs"
                expect("outcome and start", (report.outcome, report.started), (Outcome.LOST, None))
            for token, gate in running.items():
                expect("the result of what was begun", result_of(bench.let_go(gate, token)), "let go")

    @staticmethod
    def _fill(bench: Bench, hold: steps.Hold, stack: contextlib.ExitStack) -> tuple[dict[int, Gate], list[int]]:
        """Submit to every slot, and a few more if there is room; return what runs and what waits."""
        submitted: dict[int, Gate] = {}
        while bench.executor.free_slots() and len(submitted) < bench.executor.processes + _AHEAD:
            gate = stack.enter_context(Gate(bench.patience))
            submitted[bench.submit(hold, gate=gate)] = gate
        tokens = list(submitted)[: bench.executor.processes]
        for token in tokens:
            submitted[token].wait_entered()
        return {token: submitted[token] for token in tokens}, [token for token in submitted if token not in tokens]

    # -- waiting ------------------------------------------------------------------------------------------------------

    @promise("fileno() is the same descriptor from start() to close(), and not readable once poll() has no more work")
    def test_fileno_stays_and_becomes_quiet(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            fd = bench.executor.fileno()
            for value in range(3):
                bench.run(step, value=value)
                expect("fileno()", bench.executor.fileno(), fd)
            while is_readable(fd):
                expect("what poll() returns when all is reported", bench.executor.poll(), [])

    # -- killing ------------------------------------------------------------------------------------------------------

    @promise("after kill() the process, and all that it started, is gone before the report appears")
    def test_a_killed_assignment_is_reported_when_its_processes_are_gone(self) -> None:
        if not self.make_executor().kills:
            not_asked("this executor does not kill")
        step, good = steps.HoldWithChild(), steps.Echo()
        with self.bench(step, good) as bench, self.gate() as gate:
            token = bench.submit(step, gate=gate)
            pids = [int(pid) for pid in gate.wait_entered().split()]
            bench.executor.kill(token)
            report = bench.collect(1)[token]
            expect("the processes that still run", [pid for pid in pids if is_running(pid)], [])
            expect("the outcome", report.outcome, Outcome.KILLED)
            expect("the result of the next step", result_of(bench.run(good, value=1)), 1)

    @promise("kill() of one assignment leaves its siblings to carry on, or each is reported as LOST")
    def test_siblings_of_a_killed_assignment_carry_on_or_are_lost(self) -> None:
        if not self.make_executor().kills:
            not_asked("this executor does not kill")
        with self.holding(2) as (bench, tokens, gates):
            bench.executor.kill(tokens[0])
            reports = bench.collect(1)
            for token, gate in zip(tokens[1:], gates[1:], strict=True):
                reports[token] = sibling = bench.let_go(gate, token)
                if sibling.outcome is not Outcome.LOST:
                    expect("the result of a sibling", result_of(sibling), "let go")
            expect("the assignments reported on", sorted(reports), tokens)
            expect("the outcome of what was killed", reports[tokens[0]].outcome, Outcome.KILLED)

    @promise("an assignment that is killed gives one report, however often and early kill() is called")
    def test_a_kill_at_once_and_twice_gives_one_report(self) -> None:
        if not self.make_executor().kills:
            not_asked("this executor does not kill")
        step, good = steps.Hold(), steps.Echo()
        with self.bench(step, good) as bench, self.gate() as gate:
            token = bench.submit(step, gate=gate)
            bench.executor.kill(token)
            bench.executor.kill(token)
            expect("the outcome", bench.collect(1)[token].outcome, Outcome.KILLED)
            expect("the result of the next step", result_of(bench.run(good, value=1)), 1)

    @promise("kill() of an executor that cannot kill does nothing: the assignment ends by itself")
    def test_a_kill_does_nothing_where_the_executor_cannot(self) -> None:
        self._asked_of_those_with_slots()
        if self.make_executor().kills:
            not_asked("this executor kills")
        with self.holding(1) as (bench, [token], [gate]):
            bench.executor.kill(token)
            expect("the reports after kill()", bench.poll(), {})
            expect("the result", result_of(bench.let_go(gate, token)), "let go")

    @promise("kill() of what has ended, or never was, does nothing")
    def test_killing_what_has_ended_or_never_was_does_nothing(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            token = bench.submit(step, value=1)
            expect("the result", result_of(bench.collect(1)[token]), 1)
            bench.executor.kill(token)
            bench.executor.kill(10**6)
            expect("what poll() returns after that", bench.poll(), {})
            expect("the result of the next step", result_of(bench.run(step, value=2)), 2)

    # -- life and end -------------------------------------------------------------------------------------------------

    @promise("close() may be called twice, and without start()")
    def test_can_be_closed_twice_and_without_start(self) -> None:
        executor = self.make_executor()
        executor.close()
        step = steps.Echo()
        bench = self.bench_of(executor, step)
        try:
            expect("the result", result_of(bench.run(step, value=1)), 1)
        finally:
            executor.close()
        executor.close()

    @promise("start() of an executor that is started raises RuntimeError, and changes nothing")
    def test_serves_one_engine_at_a_time(self) -> None:
        executor, step = self.make_executor(), steps.Echo()
        with self.bench_of(executor, step) as bench:
            try:
                executor.start({})
            except RuntimeError:
                pass
            else:
                raise AssertionError("an executor that is started was started again")
            expect("the result", result_of(bench.run(step, value=1)), 1)

    @promise("an executor can be started again after close()")
    def test_can_be_started_again(self) -> None:
        executor, step = self.make_executor(), steps.Echo()
        for value in (1, 2):
            with self.bench_of(executor, step) as bench:
                expect("the result", result_of(bench.run(step, value=value)), value)

    @promise("what was left is forgotten when an executor is started again")
    def test_what_was_left_is_forgotten_when_it_is_started_again(self) -> None:
        executor, step = self.make_executor(), steps.Echo()
        with self.bench_of(executor, step) as bench:
            free = executor.free_slots()
            bench.submit(step, value=1)
        with self.bench_of(executor, step):
            expect("what poll() returns", executor.poll(), [])
            expect("free_slots()", executor.free_slots(), free)

    @promise("close() ends what runs, with all that it started, and the last poll() reports it as KILLED")
    def test_close_ends_what_runs(self) -> None:
        if not self.make_executor().kills:
            not_asked("this executor does not kill")
        step = steps.HoldWithChild()
        with self.gate() as gate:
            with self.bench(step) as bench:
                token = bench.submit(step, gate=gate)
                pids = [int(pid) for pid in gate.wait_entered().split()]
            expect("the processes that still run", [pid for pid in pids if is_running(pid)], [])
            reports = [(report.token, report.outcome) for report in bench.executor.poll()]
            expect("tokens and outcomes in the last poll()", reports, [(token, Outcome.KILLED)])

    @promise("whatever was accepted and not reported when close() is called is reported once by the last poll()")
    def test_what_close_found_is_reported(self) -> None:
        step = steps.Echo()
        with self.bench(step) as bench:
            tokens = [bench.submit(step, value=1) for _ in range(bench.executor.free_slots())]
        reports = bench.poll()
        expect("the assignments reported on", sorted(reports), tokens)
        for report in reports.values():
            expect_end(report)
        expect("what poll() returns after that", bench.poll(), {})

    # -- the workplace ------------------------------------------------------------------------------------------------

    @promise("a large result goes into a file of the workplace, where there is one, and a small one does not")
    def test_large_results_go_to_the_workplace(self) -> None:
        step = steps.Echo()
        with workplace_for(self.make_executor()) as (executor, _), self.bench_of(executor, step) as bench:
            large, small = bench.run(step, value=b"x" * (2 * LARGE)), bench.run(step, value=1)
            expect("the results", (len(result_of(large)), result_of(small)), (2 * LARGE, 1))
            assert large.result is not None
            assert small.result is not None
            assert executor.workplace is not None
            expect("the folder of the large one", Path(large.result.file).parent, executor.workplace.values)
            expect("the file of the small one", small.result.file, "")

    @promise("each process that runs steps shows itself in the workplace as long as it lives")
    def test_processes_show_themselves_in_the_workplace(self) -> None:
        made, step = self.make_executor(), steps.Hold()
        if not made.pickles:
            not_asked("this executor runs steps in this process, which shows itself")
        with workplace_for(made) as (executor, program), self.gate() as gate:
            assert executor.workplace is not None
            path = executor.workplace.presence
            assert path is not None
            with self.bench_of(executor, step) as bench:
                token = bench.submit(step, gate=gate)
                gate.wait_entered()
                program.leave()  # so that only those are left that run steps
                assert not is_gone(path), "a step runs, and its process does not show itself"
                bench.let_go(gate, token)
            wait_gone(path)


def expect_end(report: AttemptReport) -> None:
    """Check that a report is one of something that was ended by ``close``, or had just ended."""
    if report.outcome is Outcome.LOST:
        expect("the time of start of what was not begun", report.started, None)
    elif report.outcome is not Outcome.KILLED:
        expect("the result of what had ended", result_of(report), 1)


@contextlib.contextmanager
def workplace_for(executor: Executor) -> Iterator[tuple[Executor, Presence]]:
    """Give an executor a workplace, where this program shows itself."""
    with tempfile.TemporaryDirectory() as folder:
        values = Path(folder) / "values"
        values.mkdir()
        executor.workplace = Workplace(presence=Path(folder) / "presence", values=values)
        assert executor.workplace.presence is not None
        program = Presence(executor.workplace.presence)
        try:
            yield executor, program
        finally:
            program.leave()
            executor.workplace = None
