"""Making one pickle of what a process needs to run the steps of a workflow, or saying what is in the way."""

from __future__ import annotations

from fuseline.attempt import Hosted
from fuseline.encoding import check_size, explain_unpicklable
from fuseline.errors import NotPicklableError

__all__ = ["pickle_hosted"]

_ADVICE = "Open or build it in setup(), which runs where the step runs, or leave it out in __getstate__()."


def pickle_hosted(workflow_id: str, hosted: Hosted) -> bytes:
    """Return the steps of a workflow and their policies as bytes for another process.

    Classes and functions of ``__main__``, lambdas and closures travel by value.

    Raises:
        NotPicklableError: a step or policy cannot be pickled; the error names it and the part of it to blame.
    """
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(dict(hosted), 5)
    except Exception as error:
        for name, (step, policies) in hosted.items():
            for what, part in ((f"step {name!r}", step), *((f"{p!r} of step {name!r}", p) for p in policies)):
                try:
                    cloudpickle.dumps(part, 5)
                except Exception as problem:
                    reason = explain_unpicklable(part, problem)
                    raise NotPicklableError(f"{what} to a child process", reason, _ADVICE) from problem
        raise NotPicklableError(f"workflow {workflow_id!r} to a child process", str(error), _ADVICE) from error
    return check_size(data, f"workflow {workflow_id!r} to a child process")
