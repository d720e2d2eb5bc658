"""Named points where a test makes this very process fail: ``FUSELINE_FAULT=sql:17`` kills it at its 17th SQL statement.

One look at a dictionary where no fault is armed.
"""

from __future__ import annotations

import os
import signal

__all__ = ["point"]

#: {name of a point: how often it may still be passed}
_armed: dict[str, int] = {}


def point(name: str) -> None:
    """Die here by SIGKILL, if a test wants it so."""
    if _armed and name in _armed:
        _armed[name] -= 1
        if _armed[name] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _arm(text: str) -> None:
    name, _, passes = text.partition(":")
    _armed[name] = int(passes)


if fault := os.environ.get("FUSELINE_FAULT"):
    _arm(fault)
