"""What the end of an attempt, or of the child under it, amounts to."""

from __future__ import annotations

from fuseline.errors import StepCrashed, StepError, StepLost, StepTimedOut
from fuseline.messages import AttemptReport, FailureAction, Outcome, StepAssignment

__all__ = ["asks_for_a_new_child", "killed", "what_ended"]


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


def what_ended(assignment: StepAssignment, verdict: Outcome | None, returncode: int | None) -> StepError:
    """Return the error of an attempt whose child has ended.

    Args:
        verdict: why we have ended the child; None if it ended by itself.
        returncode: of the child, as of ``waitpid``.
    """
    whom = {"step_name": assignment.step_name, "instance_id": assignment.instance_id, "attempt": assignment.attempt}
    if verdict is Outcome.TIMED_OUT:
        assert assignment.timeout is not None
        return StepTimedOut(timeout=assignment.timeout, killed=True, **whom)  # type: ignore[arg-type]
    if verdict is Outcome.LOST:
        how = "closed the pipe of its process, or wrote into it, so that nothing could be heard from it any more"
        return StepCrashed(how=how, **whom)  # type: ignore[arg-type]
    if verdict is Outcome.KILLED:
        return killed(assignment)
    return StepCrashed.from_returncode(returncode, **whom)  # type: ignore[arg-type]
