"""Gate: holds a step in the middle of its work until the test has seen it there, in whatever process it runs."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

__all__ = ["HANG", "Gate"]

#: Seconds after which a test that waits has failed: a net against deadlock, never the thing measured.
HANG = 60.0


class Gate:
    """Two named pipes: one says that the step has entered, the other lets it go on. Picklable; use it with ``with``.

    In the step: ``gate.enter()`` blocks until the test opens the gate. In the test: ``gate.wait_entered()``, then
    ``gate.open()``. One gate can be entered by several steps; open it as often. A program that is no step gets the
    ``folder``, and has the gate by ``Gate.at(folder)``.

    Args:
        patience: seconds after which ``wait_entered`` gives up.
    """

    def __init__(self, patience: float = HANG) -> None:
        import tempfile  # not for the step that enters

        self._set(tempfile.mkdtemp(prefix="fuseline-gate-"), patience)
        for path in (self._entered, self._go):
            os.mkfifo(path)
        # What is in a pipe outlives its writer while we have it open, and who waits for more does not meet its end.
        for path in (self._entered, self._go):
            self._open.enter_context(_opened(path))

    @classmethod
    def at(cls, folder: str, patience: float = HANG) -> Self:
        """Return the gate with this ``folder``, which another process has made."""
        gate = cls.__new__(cls)
        gate._set(folder, patience)
        return gate

    def _set(self, folder: str, patience: float) -> None:
        self.folder = folder
        self._patience = patience
        self._entered = os.path.join(folder, "entered")
        self._go = os.path.join(folder, "go")
        self._open = contextlib.ExitStack()

    def __reduce__(self) -> tuple[Any, ...]:
        return Gate.at, (self.folder, self._patience)

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
        text = b""
        with _opened(self._entered) as fd:
            while not text.endswith(b"\n"):
                readable, _, _ = select.select([fd], [], [], self._patience)
                assert readable, "no step has entered the gate"
                text += os.read(fd, 1)
        return text.decode().rstrip("\n")

    def open(self) -> None:
        """Let one step go on that waits, or will wait."""
        with _opened(self._go) as fd:
            os.write(fd, b"g")

    def close(self) -> None:
        """Remove the gate. Whoever stands in it goes on, and whoever comes later gets an error."""
        import shutil

        self._open.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """A pipe that is open for both ends, so that this does not wait for somebody at the other one."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)
