"""A plugin of coverage, named in ``pyproject.toml``: measured processes do not wait for themselves.

Coverage holds a lock, which the same thread cannot take twice, at each call of a function. A handler of a signal that
comes meanwhile calls functions, too, and so waits for ever: a program that should end on Ctrl-C does not. An exception
that comes there, as of a timeout that interrupts, leaves the lock held, and all threads wait. What it guards, a set
that is put into a dict by C code, needs no lock where there is a GIL. Coverage has no switch for it.
"""

from __future__ import annotations

from typing import Any

from coverage.collector import Collector


def coverage_init(registry: Any, options: Any) -> None:
    """Let calls of functions of tracers do nothing instead, in C, where no signal is heard."""
    Collector.lock_data = Collector.unlock_data = staticmethod(bool)
