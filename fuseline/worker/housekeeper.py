"""Housekeeper: what is done in a child between two attempts, and whether there may be another one."""

from __future__ import annotations

import os
from collections.abc import Callable

from fuseline.step import Step
from fuseline.worker.changes import Changes
from fuseline.worker.surroundings import LONG, Resources, Surroundings, find_lowest_free

__all__ = ["Housekeeper"]


class Housekeeper:
    """Lets each step find its process as it expects it.

    Args:
        isolation: whether to undo what an attempt has changed in the process.
        max_steps: attempts after which the process is spent; None for any number.
        max_memory: bytes of resident memory after an attempt, above which it is spent; None for any number.
        on_wait: called before it waits for something, for a moment.
    """

    def __init__(
        self, *, isolation: bool, max_steps: int | None, max_memory: int | None, on_wait: Callable[[], None]
    ) -> None:
        self._isolation = isolation
        self._max_steps = max_steps
        self._max_memory = max_memory
        self._attempts = 0
        self._standard = (os.dup(0), os.dup(1), os.dup(2))
        self._resources = Resources(on_wait)
        self._home = self._current = Surroundings(self._standard)
        self._of_steps: dict[Step, Surroundings] = {}  #: those that have a ``setup`` of their own

    def settle_in(self) -> None:
        """Take the process as it is, now that the code of a workflow was loaded."""
        if self._isolation:
            self._home = self._current = Surroundings(self._standard)
            self._resources.accept()

    def has_set_up(self, step: Step) -> None:
        """Let all attempts of ``step`` find what its ``setup`` has just made of the process."""
        if self._isolation and type(step).setup is not Step.setup:
            self._of_steps[step] = self._current = Surroundings(self._standard)
            self._resources.accept()

    def prepare(self, step: Step) -> None:
        """Give the process the form that ``step`` is used to.

        Raises:
            OSError: that cannot be; its directory is gone, say.
        """
        wanted = self._of_steps.get(step, self._home)
        if wanted is not self._current:
            Changes.seen = True  # by the setup that one of the two pictures was taken after
            wanted.restore()
            self._current = wanted

    def tidy_up(self, seconds: float) -> str:
        """Undo what an attempt has changed in the process.

        Args:
            seconds: how long it took.

        Returns:
            What cannot be undone, as the end of a sentence on the step; empty if nothing.
        """
        if not self._isolation:
            return ""
        try:
            lowest_free = find_lowest_free(self._standard[0])
            has_all = lowest_free > 2
            self._current.restore(thoroughly=not has_all or seconds >= LONG)
            if not has_all:
                lowest_free = find_lowest_free()
        except (OSError, ValueError) as error:
            return f"has changed its process in a way that cannot be undone ({type(error).__name__}: {error})"
        left = self._resources.left_over(seconds, lowest_free)
        return left and f"has left {left}"

    def has_served_enough(self) -> bool:
        """Count an attempt, and return whether it was to be the last one here."""
        self._attempts += 1
        if self._max_steps is not None and self._attempts >= self._max_steps:
            return True
        return self._max_memory is not None and _resident() > self._max_memory

    def may_exit(self) -> bool:
        """Return whether an ordinary exit of the process would wait for nothing that a step has left."""
        return not self._resources.has_threads()


def _resident() -> int:
    """Return the resident memory of this process, in bytes."""
    import psutil  # imported late: few ask

    return int(psutil.Process().memory_info().rss)
