"""An assignment or report that cannot be encoded, for a reason that nobody has thought of, fails one step."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from fuseline.encoding import encode
from fuseline.errors import NotPicklableError
from fuseline.executors import LokyExecutor
from fuseline.messages import StepAssignment
from fuseline.testing.contract import Bench, error_of, result_of
from fuseline.testing.steps import Echo


class OddText(str):
    """Text that msgpack does not take."""


class OddExecutor(LokyExecutor):
    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        super().submit([self.made_odd(each) for each in assignments])

    def made_odd(self, assignment: StepAssignment) -> StepAssignment:
        is_odd = assignment.payload.arguments["value"] == encode("odd")
        return replace(assignment, instance_id=OddText("run")) if is_odd else assignment


def test_an_assignment_that_cannot_be_sent_fails_alone() -> None:
    step = Echo()
    with Bench(OddExecutor(2), step) as bench:
        values = ["a", "b", "odd", "c", "odd", "d"]
        reports = bench.run_all(step, [{"value": value} for value in values])
        for value, report in zip(values, reports, strict=True):
            if value == "odd":
                assert isinstance(error_of(report), NotPicklableError)
            else:
                assert result_of(report) == value
        assert result_of(bench.run(step, value="after")) == "after"
