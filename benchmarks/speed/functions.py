"""What the tasks of the measurements do. Workers import this module, so it imports nothing that takes time."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["add", "add_one", "make_array", "nothing", "one", "spin", "sum_of"]


def nothing() -> None:
    """Take no time."""


def one() -> int:
    return 1


def add(a: int, b: int) -> int:
    return (a + b) % 1_000_003


def add_one(a: int) -> int:
    return a + 1


def spin(seconds: float) -> int:
    """Be busy in pure Python for so much CPU time."""
    end = time.thread_time() + seconds
    count = 0
    while time.thread_time() < end:
        for _ in range(1_000):
            count += 1
    return 1


def make_array(size: int) -> Any:
    """Return so many float64, all 1."""
    import numpy

    return numpy.ones(size)


def sum_of(array: Any) -> float:
    return float(array.sum())
