"""Retention: which of the runs that have ended stay in a store."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["KEEP_ALL", "Retention"]


class Retention(NamedTuple):
    """Which of the runs that have ended stay in a store."""

    seconds: float | None = None  #: after the end of a run; None for ever
    runs: int | None = None  #: the newest so many; None for all

    def __bool__(self) -> bool:
        return self != (None, None)


KEEP_ALL = Retention()
