"""Workers that left without a word: they may be dead, or come back to a broker that was started again.

That one is dead is known when nobody shows himself in the file of its program any more (``fuseline.presence``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from fuseline.presence import is_gone
from fuseline.spool import remove_spools

__all__ = ["Absentees", "program_of"]

#: Seconds between two looks whether one is gone, at first and at last.
_FIRST_LOOK, _LAST_LOOK = 0.005, 0.2


class Absentees:
    """The missing, and what the dead have left.

    Args:
        presence_folder: where programs show that they are alive.
        spools_folder: where they write reports first; None if they do not.
    """

    def __init__(self, presence_folder: Path, spools_folder: Path | None) -> None:
        self.presence_folder = presence_folder
        self._spools_folder = spools_folder
        self._since: dict[str, float] = {}  #: {worker: when it was missed first}
        self._look_at = 0.0  #: when to look again, in monotonic seconds

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._since

    def __bool__(self) -> bool:
        return bool(self._since)

    def add(self, worker_id: str) -> None:
        """Note that a worker is missing."""
        self._since[worker_id] = self._look_at = time.monotonic()

    def discard(self, worker_id: str) -> None:
        """Note that a worker is missing no more, if it was."""
        self._since.pop(worker_id, None)

    def next_look(self) -> float | None:
        """Return when ``find_dead`` should be called, in monotonic seconds; None if nobody is missing."""
        return self._look_at if self._since else None

    def find_dead(self, now: float) -> list[str]:
        """Return the workers that are known to be dead, if it is time to look."""
        if not self._since or now < self._look_at:
            return []
        # At once after one has left, and the longer all stay away the less likely they are to be dead.
        age = now - max(self._since.values())
        self._look_at = now + min(max(_FIRST_LOOK, age / 10), _LAST_LOOK)
        return [worker_id for worker_id in self._since if is_gone(self.presence_folder / program_of(worker_id))]

    def tidy_up(self, programs: Iterable[str]) -> None:
        """Remove what programs have left that are gone, but for those of which a worker is missing."""
        if self._spools_folder is not None:
            for program in set(programs).difference(map(program_of, self._since)):
                if is_gone(self.presence_folder / program):
                    remove_spools(self._spools_folder, program)

    def tidy_up_all(self) -> None:
        """Do this for all programs that there ever were."""
        if self._spools_folder is not None:
            known = [*self.presence_folder.iterdir(), *self._spools_folder.iterdir()]
            self.tidy_up(program_of(path.name) for path in known)


def program_of(worker_id: str) -> str:
    """Return the name of the program that a worker belongs to, and of its presence and spools."""
    return worker_id.partition(".")[0]
