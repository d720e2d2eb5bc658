"""Keeper: what an operator does. Starts programs, and starts again what has ended, by the same command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from .history import End
from .steps import FOLDER

__all__ = ["Keeper"]

ROOT = Path(__file__).parents[2]
#: Seconds in which a program must end that is told to: a net against deadlock.
_ENDING = 60.0


class Keeper:
    """Keeps programs, as children of this process.

    Args:
        folder: of all files; each program has a log there.
        arguments: of every program.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self._kept: dict[str, subprocess.Popen[bytes]] = {}
        self.ends: list[End] = []

    def start(self, name: str) -> None:
        """Start the program whose role is the first part of a name like ``engine-2``."""
        role = name.partition("-")[0]
        command = [sys.executable, "-m", "tests.chaos.programs", role, *self._arguments]
        (self._folder / "tmp").mkdir(exist_ok=True)
        with open(self._folder / f"{name}.log", "ab") as log:
            self._kept[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(), cwd=ROOT
            )

    def environment(self) -> dict[str, str]:
        """Return what programs find in their environment: their files lie where nobody else's do."""
        ours = {FOLDER: str(self._folder), "TMPDIR": str(self._folder / "tmp"), "PYTHONPATH": str(ROOT)}
        return {**os.environ, **ours, "XDG_RUNTIME_DIR": "", "PYTHONFAULTHANDLER": "1", "FUSELINE_CHECKED": "1"}

    def tend(self) -> None:
        """Start again what has ended. A driver that has ended with 0 is done."""
        for name, process in list(self._kept.items()):
            if (code := process.poll()) is None:
                continue
            self.ends.append(End(time.monotonic(), name, process.pid, code))
            if name == "driver":
                del self._kept[name]
            else:
                self.start(name)

    def pids(self, role: str) -> list[int]:
        """Return the processes of programs of a role."""
        return [process.pid for name, process in self._kept.items() if name.startswith(role)]

    def is_kept(self, name: str) -> bool:
        return name in self._kept

    def stop(self, role: str) -> list[str]:
        """End the programs of a role by SIGTERM, and return what was wrong with that."""
        names = [name for name in self._kept if name.startswith(role)]
        processes = [self._kept.pop(name) for name in names]
        for process in processes:
            process.terminate()
        problems = []
        for name, process in zip(names, processes, strict=True):
            try:
                process.wait(_ENDING)
            except subprocess.TimeoutExpired:
                problems.append(f"{name} (process {process.pid}) did not end within {_ENDING:.0f} s of SIGTERM")
                process.kill()
                process.wait()
        return problems
