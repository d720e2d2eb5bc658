"""What a test asks of this very process through its environment.

``FUSELINE_FAULT=sql:17`` kills it at its 17th SQL statement: at a named point, which costs one look at a dictionary
where no fault is armed. ``FUSELINE_CHECKED=1`` has its schedulers check all invariants after each event.
"""

from __future__ import annotations

import os
import signal

__all__ = ["checks_are_wanted", "point"]

#: {name of a point: how often it may still be passed}
_armed: dict[str, int] = {}


def point(name: str) -> None:
    """Die here by SIGKILL, if a test wants it so."""
    if _armed and name in _armed:
        _armed[name] -= 1
        if _armed[name] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def checks_are_wanted() -> bool:
    """Return whether schedulers are to check themselves, which costs time for each step of each run."""
    return os.environ.get("FUSELINE_CHECKED") == "1"


def _arm(text: str) -> None:
    name, _, passes = text.partition(":")
    _armed[name] = int(passes)


if fault := os.environ.get("FUSELINE_FAULT"):
    _arm(fault)
