"""Gate: holds a step in the middle of its work until the test has seen it there, in whatever process it runs."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
from types import TracebackType
from typing import Any, Self

__all__ = ["HANG", "Gate"]

#: Seconds after which a test that waits has failed: a net against deadlock, never the thing measured.
HANG = 60.0


class Gate:
    """Two named pipes: one says that the step has entered, the other lets it go on. Picklable; use it with ``with``.

    In the step: ``gate.enter()`` blocks until the test opens the gate. In the test: ``gate.wait_entered()``, then
    ``gate.open()``. One gate can be entered by several steps; open it as often.

    Args:
        patience: seconds after which ``wait_entered`` gives up.
    """

    def __init__(self, patience: float = HANG) -> None:
        self._set(tempfile.mkdtemp(prefix="fuseline-gate-"), patience)
        for path in (self._entered, self._go):
            os.mkfifo(path)
        # Always open here: what is in a pipe outlives its writer then, and who waits for more does not meet its end.
        self._fds = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in (self._entered, self._go)]
        self._unread = b""

    def _set(self, folder: str, patience: float) -> None:
        self._folder = folder
        self._patience = patience
        self._entered = os.path.join(folder, "entered")
        self._go = os.path.join(folder, "go")

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_elsewhere, (self._folder, self._patience)

    def enter(self, text: str = "") -> None:
        """Say that the step is here, with a line of text, and wait until the gate is opened."""
        with open(self._entered, "w") as entered:
            entered.write(f"{text}\n")
        go = os.open(self._go, os.O_RDONLY)
        try:
            os.read(go, 1)
        finally:
            os.close(go)

    def wait_entered(self) -> str:
        """Wait until a step has entered; return its text.

        Raises:
            AssertionError: none came.
        """
        while b"\n" not in self._unread:
            readable, _, _ = select.select([self._fds[0]], [], [], self._patience)
            assert readable, "no step has entered the gate"
            self._unread += os.read(self._fds[0], 4096)
        text, self._unread = self._unread.split(b"\n", 1)
        return text.decode()

    def open(self) -> None:
        """Let one step go on that waits, or will wait."""
        os.write(self._fds[1], b"g")

    def close(self) -> None:
        """Remove the gate. Whoever stands in it goes on, and whoever comes later gets an error."""
        while self._fds:
            os.close(self._fds.pop())
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _from_elsewhere(folder: str, patience: float) -> Gate:
    """Return a gate to enter, which another process has made."""
    gate = Gate.__new__(Gate)
    gate._set(folder, patience)
    return gate
