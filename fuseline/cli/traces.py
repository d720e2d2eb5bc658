"""Errors of steps as people and programs read them. Nothing is unpickled for that."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import fuseline
from fuseline.cli.text import printable, shorten
from fuseline.errors import RunTimedOut
from fuseline.records import RunRecord
from fuseline.scheduler.plan import timeout_cause
from fuseline.values import ErrorInfo

__all__ = ["error_lines", "failure_of", "reason_of", "summary", "without_whom"]

#: Frames of a traceback that are shown: the first, which is the step's, and the last ones.
_FRAMES = 4
_TRACEBACK = "Traceback (most recent call last):\n"
#: {what a traceback says between two exceptions: how we say it}
_LINKS = {
    "The above exception was the direct cause of the following exception:": "caused by",
    "During handling of the above exception, another exception occurred:": "raised while handling",
}
#: Lines of a message that are shown below its first.
_MORE = 5
#: Characters of a line that are shown.
_LONGEST = 1000

#: A line that marks a part of the one above.
_MARKS = re.compile(r"\s*[~^]+[~^ ]*")
#: Whom an error is about, at its beginning; where it is shown, that is there already.
_WHOM = re.compile(r"^(\w+: |)step ('[^']*'|\"[^\"]*\") of run \w+(?: \(attempt \d+\))? ")
_OWN = str(Path(fuseline.__file__).parent) + os.sep


def summary(error: ErrorInfo) -> str:
    """Return ``"ValueError: no such column"``, on one line."""
    return _summary(error, error.message)


def _summary(error: ErrorInfo, message: str) -> str:
    kind = error.type_names[0].rpartition(".")[2] if error.type_names else "an exception"
    return shorten(f"{kind}: {message}" if message else kind, _LONGEST)


def without_whom(text: str) -> str:
    """Return an error or cause without the step, the run and the attempt that it begins with."""
    return _WHOM.sub(r"\1", text)


def reason_of(record: RunRecord) -> str:
    """Return why a run failed, on one line; empty if it did not."""
    if record.timed_out is not None:
        return timeout_cause(record.timed_out)
    if not record.failed:
        return ""
    step = record.steps[record.failed[0]]
    return f"{record.failed[0]}: {without_whom(summary(step.error)) if step.error else 'its worker gave no reason'}"


def failure_of(record: RunRecord) -> dict[str, Any]:
    """Return why a run failed, for a program; no step is to blame if it has had its time."""
    if record.timed_out is not None:
        kind = f"{RunTimedOut.__module__}.{RunTimedOut.__qualname__}"
        return {"step": None, "attempts": None, "type": kind, "message": timeout_cause(record.timed_out)}
    step = record.steps[record.failed[0]]
    error = step.error
    return {
        "step": record.failed[0],
        "attempts": step.attempts,
        "type": error.type_names[0] if error and error.type_names else None,
        "message": error.message if error else "",
    }


def error_lines(record: RunRecord, name: str) -> list[str]:
    """Return lines that say how a step failed: the error, and where in the user's code."""
    step = record.steps[name]
    attempt = f" (attempt {step.attempts})" if step.attempts > 1 else ""
    if step.error is None:
        return [f"step {name!r}{attempt}: its worker gave no reason"]
    first, *more = step.error.message.strip().split("\n")
    lines = [f"step {name!r}{attempt}: {without_whom(_summary(step.error, first))}"]
    lines += [f"  {line}" for line in more[:_MORE]] + (["  …"] if len(more) > _MORE else [])
    lines += [f"  {line}" for line in [*_frames(step.error.traceback), *_causes(step.error.traceback)]]
    return [printable(line) for line in lines]


def _frames(trace: str) -> list[str]:
    """Return the lines of a traceback about its innermost frames, without those of this package and without marks."""
    frames: list[list[str]] = []
    for line in trace.split(_TRACEBACK)[-1].split("\n"):
        if not line.startswith("  "):
            break
        if line.startswith("  File "):
            frames.append([])
        if frames and not _MARKS.fullmatch(line):
            frames[-1].append(line[2 : _LONGEST + 2])
    here = f'File "{os.getcwd()}{os.sep}'
    shown = [frame for frame in frames if not frame[0].startswith(f'File "{_OWN}')]
    if len(shown) > _FRAMES:
        shown = [shown[0], ["…"], *shown[1 - _FRAMES :]]
    return [line.replace(here, 'File "', 1) if line.startswith(here) else line for frame in shown for line in frame]


def _causes(trace: str) -> list[str]:
    """Return a line for each exception that led to the last one, that one's own cause first."""
    causes = []
    for part in trace.split(_TRACEBACK)[:-1]:
        lines = [line for line in part.split("\n") if line and not line[0].isspace()]
        if len(lines) > 1 and lines[-1] in _LINKS:
            causes.append(f"{_LINKS[lines[-1]]} {lines[0]}"[:_LONGEST])
    return causes[::-1]
