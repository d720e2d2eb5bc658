"""Making one pickle of what a process needs to run the steps of a workflow, or saying what is in the way."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

from fuseline.attempt import Hosted
from fuseline.encoding import check_size, explain_unpicklable
from fuseline.errors import NotPicklableError
from fuseline.step import Step
from fuseline.worker.packed import PackedSteps

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
        data = _pickle(hosted)
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


def _pickle(hosted: Hosted) -> bytes:
    import cloudpickle

    class PackedPickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, Step):
                raise _StepInside
            return super().reducer_override(thing)

    if (packed := PackedSteps.of(hosted)) is not None:
        file = io.BytesIO()
        with suppress(_StepInside):
            PackedPickler(file, 5).dump(packed)
            return file.getvalue()
    return cloudpickle.dumps(dict(hosted), 5)  # type: ignore[no-any-return]


class _StepInside(Exception):
    """A step, or a policy, has another one, which must be the same object there as under its name."""
