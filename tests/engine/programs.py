"""Runs small programs as a user would, and asks the system what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil

from fuseline.testing.contract import is_running
from fuseline.testing.gate import HANG

__all__ = ["Program", "wait_gone"]


class Program:
    """A script in a process group of its own, run without a guard for ``__main__``."""

    def __init__(self, folder: Path, source: str, *arguments: str) -> None:
        path = folder / "program.py"
        path.write_text(textwrap.dedent(source))
        environment = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
        # Files, not pipes: what a step has started may hold a pipe open after the end of the program.
        self._out, self._err = folder / "out", folder / "err"
        with open(self._out, "w") as out, open(self._err, "w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(path), *arguments],
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def descendants(self) -> list[psutil.Process]:
        return list(psutil.Process(self.pid).children(recursive=True))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_said(self, text: str) -> None:
        """Wait until the program has written this to standard error."""
        give_up = time.monotonic() + HANG
        while text not in self._err.read_text():
            assert time.monotonic() < give_up, f"never said: {text}"
            time.sleep(0.005)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return exit code and output."""
        self.process.wait(HANG)
        return self.process.returncode, self._out.read_text(), self._err.read_text()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def wait_gone(processes: list[psutil.Process], bound: float = HANG) -> float:
    """Wait until none of them runs; return how long that took.

    Raises:
        AssertionError: one still runs after ``bound`` seconds.
    """
    start = time.monotonic()
    while left := [p for p in processes if is_running(p.pid) and p.is_running()]:
        assert time.monotonic() - start < bound, f"still running: {[each.cmdline() for each in left]}"
        time.sleep(0.005)
    return time.monotonic() - start
