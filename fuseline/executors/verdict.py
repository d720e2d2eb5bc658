"""What the end of an attempt, or of the child under it, amounts to."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import indent

from msgspec.structs import replace

from fuseline.errors import StepCrashed, StepError, StepLost, StepOutOfMemory, StepTimedOut
from fuseline.messages import AttemptReport, FailureAction, Outcome, Phase, StepAssignment
from fuseline.processes.stamp import StampReading
from fuseline.text import printable, tail

__all__ = ["asks_for_a_new_child", "explained", "killed", "phase_of", "what_ended"]

#: Lines, and characters, of what an attempt has printed last that its error shows.
_LINES, _CHARACTERS = 40, 4000
#: How lines of a stack begin that are ours.
_OURS = (f'File "{Path(__file__).parents[1]}{os.sep}', "Extension modules: ")


def explained(report: AttemptReport, assignment: StepAssignment, pid: int | None, output: str) -> AttemptReport:
    """Return a report with what its attempt has printed; if it failed, its error says where, too.

    Args:
        pid: of the child; None if the attempt was in none.
    """
    error = report.error
    if error is None:
        return replace(report, output=output) if output else report
    child = "" if pid is None else f", in child process {pid}"
    note = f"in step {assignment.step_name!r} of run {assignment.instance_id}, attempt {assignment.attempt}{child}"
    if printed := printable(tail(_without_us(output), _LINES, _CHARACTERS)).strip("\n"):
        note += f", which printed last:\n{indent(printed, '  | ')}"
    return replace(report, output=output, error=replace(error, note=note))


def _without_us(output: str) -> str:
    """Leave out what the last words of a dead child say of the code that has called the step."""
    if "most recent call first" not in output:
        return output
    return "\n".join(line for line in output.splitlines() if not line.lstrip().startswith(_OURS))


def asks_for_a_new_child(report: AttemptReport) -> bool:
    """Return whether a retry must not meet this child again: what came out of the attempt was nothing that travels."""
    error, decision = report.error, report.decision
    if error is None or decision is None or decision.action is not FailureAction.RETRY:
        return False
    return error.value is None or "fuseline.errors.NotPicklableError" in error.type_names


def killed(assignment: StepAssignment) -> StepLost:
    """Return the error of an assignment that was ended for no fault of its own."""
    return StepLost(
        f"step {assignment.step_name!r} was killed before it had ended.",
        step_name=assignment.step_name,
        instance_id=assignment.instance_id,
        attempt=assignment.attempt,
    )


def phase_of(stamp: StampReading, assignment: StepAssignment) -> str | None:
    """Return how far the attempt at an assignment was; None if a child has stamped no such thing."""
    if stamp.token != assignment.token or stamp.phase not in list(Phase):
        return None
    return Phase(stamp.phase).name.lower()


def what_ended(
    assignment: StepAssignment,
    verdict: Outcome | None,
    pid: int,
    returncode: int | None,
    memory_used: int | None = None,
    phase: str | None = None,
) -> StepError:
    """Return the error of an attempt whose child has ended.

    Args:
        verdict: why we have ended the child; None if it ended by itself.
        pid, returncode: of the child, as of ``waitpid``.
        memory_used: bytes, if we have ended it for that.
        phase: how far it was, as of ``StepCrashed``.
    """
    whom = {"step_name": assignment.step_name, "instance_id": assignment.instance_id, "attempt": assignment.attempt}
    if memory_used is not None:
        assert assignment.memory_limit is not None
        return StepOutOfMemory(limit=assignment.memory_limit, used=memory_used, **whom)  # type: ignore[arg-type]
    if verdict is Outcome.TIMED_OUT:
        assert assignment.timeout is not None
        return StepTimedOut(timeout=assignment.timeout, killed=True, **whom)  # type: ignore[arg-type]
    if verdict is Outcome.LOST:
        how = "closed the pipe of its process, or wrote over the memory by which it is heard"
        return StepCrashed(how=how, pid=pid, phase=phase, **whom)  # type: ignore[arg-type]
    if verdict is Outcome.KILLED:
        return killed(assignment)
    return StepCrashed.from_returncode(returncode, pid=pid, phase=phase, **whom)  # type: ignore[arg-type]
