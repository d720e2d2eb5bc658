"""Whether this process is a child in the middle of loading what it shall run.

A module that has steps, and runs a workflow when it is imported, would do so in each child, and the children of that
would do it again: without end, until the machine has no memory left.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType

from fuseline.errors import WorkflowError

__all__ = ["check_not_loading", "loading"]

_is_loading = False


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Let this process start no children meanwhile."""
    global _is_loading
    _is_loading = True
    try:
        yield
    finally:
        _is_loading = False


def check_not_loading() -> None:
    """Make sure that this process may have children.

    Raises:
        WorkflowError: it is itself a child, and somebody wants children when a module is imported there.
    """
    if _is_loading:
        raise WorkflowError(
            f"{_importing()} runs a workflow while it is imported. A child process imports it for the steps in it, and "
            'would run the workflow again. Put that part of the module under `if __name__ == "__main__":`.'
        )


def _importing() -> str:
    """Return the innermost module that is being imported, and the line it is at."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return "a module" if frame is None else f"module {frame.f_globals['__name__']!r}, line {frame.f_lineno},"
