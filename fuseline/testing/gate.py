"""Gate: holds a step in the middle of its work until the test has seen it there, in whatever process it runs."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import tempfile
from types import TracebackType
from typing import Self

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
        self._patience = patience
        self._folder = tempfile.mkdtemp(prefix="fuseline-gate-")
        self._entered = os.path.join(self._folder, "entered")
        self._go = os.path.join(self._folder, "go")
        for path in (self._entered, self._go):
            os.mkfifo(path)

    def enter(self, text: str = "") -> None:
        """Say that the step is here, with a line of text, and wait until the gate is opened."""
        with open(self._entered, "w") as entered:
            entered.write(f"{text}\n")
        with open(self._go) as go:
            go.read(1)

    def wait_entered(self) -> str:
        """Wait until a step has entered; return its text.

        Raises:
            AssertionError: none came.
        """
        fd = os.open(self._entered, os.O_RDONLY | os.O_NONBLOCK)
        try:
            text = b""
            while not text.endswith(b"\n"):
                readable, _, _ = select.select([fd], [], [], self._patience)
                assert readable, "no step has entered the gate"
                text += os.read(fd, 1)
            return text.decode().rstrip("\n")
        finally:
            os.close(fd)

    def open(self) -> None:
        """Let a step go on that waits, or will wait."""
        with open(self._go, "w") as go:
            go.write("g")

    def open_nowait(self) -> bool:
        """Let a step go on that waits; return whether one does."""
        try:
            go = os.open(self._go, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads
            return False
        with os.fdopen(go, "w") as file:
            file.write("g")
        return True

    def close(self) -> None:
        """Remove the gate. Whoever stands in it goes on, and whoever comes later gets an error."""
        with contextlib.ExitStack() as held:
            for path in (self._entered, self._go):
                with contextlib.suppress(OSError):
                    held.callback(os.close, os.open(path, os.O_RDWR | os.O_NONBLOCK))
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
