"""What an executor does with assignments that follow others, if it takes them."""

from __future__ import annotations

from msgspec.structs import replace

from fuseline.messages import AttemptReport, Outcome
from fuseline.step import Step
from fuseline.testing import steps
from fuseline.testing.bench import Bench, BenchContract, result_of
from fuseline.testing.promise import expect, not_asked, promise
from fuseline.values import COMING

__all__ = ["ChainContract"]


class ChainContract(BenchContract):
    """The part of the contract about ``StepAssignment.follows``."""

    def _asked_of_those_with_chains(self) -> None:
        executor = self.make_executor()
        if not executor.chains:
            not_asked("this executor takes no assignments that follow others")
        if executor.processes < 2:
            not_asked("this executor has one slot, so that there is room for one assignment only")

    @staticmethod
    def _run_pair(bench: Bench, first: Step, second: Step) -> tuple[AttemptReport, AttemptReport]:
        """Run two steps, of which one follows the other and gets its result as ``value``."""
        before, after = bench.assign(first), bench.assign(second)
        payload = replace(after.payload, arguments={"value": COMING})
        after = replace(after, payload=payload, follows=before.token)
        bench.executor.submit([before, after])
        reports = bench.collect(2)
        return reports[before.token], reports[after.token]

    @promise("an assignment that follows another begins in the same place after that has returned, with its result")
    def test_what_follows_goes_on_in_the_same_place(self) -> None:
        self._asked_of_those_with_chains()
        where, echo = steps.WhereAmI(), steps.Echo()
        with self.bench(where, echo) as bench:
            first, second = self._run_pair(bench, where, echo)
            expect("the result of the second, which returns that of the first", result_of(second), result_of(first))
            assert first.ended is not None
            assert second.started is not None
            assert first.ended <= second.started, "the second has begun before the first had ended"
            first, second = self._run_pair(bench, where, where)
            expect("the place of the second", result_of(second), result_of(first))

    @promise("what follows an assignment that has not returned is handed back: LOST, without a time of start")
    def test_what_follows_a_failure_is_handed_back(self) -> None:
        self._asked_of_those_with_chains()
        bad, echo = steps.Raise(), steps.Echo()
        with self.bench(bad, echo) as bench:
            first, second = self._run_pair(bench, bad, echo)
            expect("the outcome of the first", first.outcome, Outcome.RAISED)
            expect("outcome and start of the second", (second.outcome, second.started), (Outcome.LOST, None))
            expect("the result of the next step", result_of(bench.run(echo, value=1)), 1)
