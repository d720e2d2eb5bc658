"""Errors of steps as people and programs read them. Nothing is unpickled for that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fuseline
from fuseline.cli.text import printable, shorten
from fuseline.records import RunRecord
from fuseline.values import ErrorInfo

__all__ = ["error_lines", "failure_of", "reason_of", "summary"]

#: Lines of a traceback that are shown, the last ones.
_LINES = 8
#: Characters of a line that are shown.
_LONGEST = 1000

_OWN = str(Path(fuseline.__file__).parent) + os.sep


def summary(error: ErrorInfo) -> str:
    """Return ``"ValueError: no such column"``, on one line."""
    kind = error.type_names[0].rpartition(".")[2] if error.type_names else "an exception"
    return shorten(f"{kind}: {error.message}" if error.message else kind, _LONGEST)


def reason_of(record: RunRecord) -> str:
    """Return why a run failed, on one line; empty if it did not."""
    if not record.failed:
        return ""
    step = record.steps[record.failed[0]]
    return f"{record.failed[0]}: {summary(step.error) if step.error else 'its worker gave no reason'}"


def failure_of(record: RunRecord) -> dict[str, Any]:
    """Return why a run failed, for a program."""
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
    lines = [f"step {name!r}{attempt}: {summary(step.error)}"]
    lines += [f"  {line}" for line in step.error.message.strip().split("\n")[1:6]]
    lines += [f"  {line}" for line in _frames(step.error.traceback)]
    return [printable(line) for line in lines]


def _frames(trace: str) -> list[str]:
    """Return the last lines of a traceback that are about frames, without those of this package."""
    lines = trace.split("Traceback (most recent call last):\n")[-1].split("\n")
    frames: list[str] = []
    for line in lines:
        if not line.startswith("  "):
            break
        frames.append(line[2 : _LONGEST + 2])
    shown: list[str] = []
    is_own = False
    here = f'File "{os.getcwd()}{os.sep}'
    for line in frames:
        if line.startswith("File "):
            is_own = line.startswith(f'File "{_OWN}')
        if not is_own:
            shown.append(line.replace(here, 'File "', 1) if line.startswith(here) else line)
    return shown[-_LINES:]
