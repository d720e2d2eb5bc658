"""Runs small programs as a user would, and asks the system what is left of them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from fuseline.testing.gate import HANG

__all__ = ["Program", "wait_gone"]


class Program:
    """A script in a process group of its own, run without a guard for ``__main__``."""

    def __init__(self, folder: Path, source: str, *arguments: str) -> None:
        path = folder / "program.py"
        path.write_text(textwrap.dedent(source))
        environment = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._exit = os.pidfd_open(self.pid)
        self._out, self._err = self.process.stdout.fileno(), self.process.stderr.fileno()
        self._said = {self._out: b"", self._err: b""}
        self._open = set(self._said)
        for pipe in self._open:
            os.set_blocking(pipe, False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def descendants(self) -> list[psutil.Process]:
        return list(psutil.Process(self.pid).children(recursive=True))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_said(self, text: str, *, in_output: bool = False) -> str:
        """Wait until the program has written this to standard error, or output; return all that is there."""
        stream = self._out if in_output else self._err
        goes_on = True
        while text.encode() not in self._said[stream]:
            assert goes_on, f"never said: {text}"
            goes_on = self._listen()
        return self._said[stream].decode()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return exit code and output."""
        while self._listen():
            pass
        return self.process.wait(), self._said[self._out].decode(), self._said[self._err].decode()

    def _listen(self) -> bool:
        """Wait until the program says something or ends; return whether it goes on."""
        readable, _, _ = select.select([self._exit, *self._open], [], [], HANG)
        assert readable, "the program neither says anything nor ends"
        for pipe in list(self._open):  # not until they end: what a step has started may hold them open
            with suppress(BlockingIOError):
                while data := os.read(pipe, 1 << 16):
                    self._said[pipe] += data
                self._open.remove(pipe)
        return self._exit not in readable

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exception: Any) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        os.close(self._exit)


def wait_gone(processes: list[psutil.Process]) -> None:
    """Wait until each of them has ended."""
    for process in processes:
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            if process.is_running():  # else its number is another one's now
                assert select.select([fd], [], [], HANG)[0], f"still running: {process.cmdline()}"
        finally:
            os.close(fd)
