"""A program of a measurement: in a process and a folder of its own, and ended with all it has started."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import psutil

__all__ = ["Program", "is_alive"]

#: In the environment of a program and of all it starts. Some overwrite theirs with a title, some change the folder they
#: work in; nobody known does both.
_MARK = "BENCHMARK_PROGRAM"

_ROOT = Path(__file__).parents[1]


class Program:
    """``python -m module arguments``, in a new folder. After the ``with`` statement folder and processes are gone.

    Attributes:
        folder: where it runs, and ``output`` is what it prints.
        process: the program.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True)
        self.folder = self._folder.name
        self.prepare()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        environment = dict(os.environ)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each program compiles all that it imports
        with open(os.path.join(self.folder, "output"), "w") as output:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env={**environment, "PYTHONPATH": path, "TMPDIR": self.folder, _MARK: self.folder},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def prepare(self) -> None:
        """Put into the folder what the program needs."""

    def __exit__(self, *exc_info: object) -> None:
        while family := self.family():  # what is being started while others are killed comes with the next round
            for process in family:
                _kill(process)
            psutil.wait_procs(family, timeout=1)
        self.process.wait()
        self._folder.cleanup()

    def output(self) -> str:
        """Return what it has printed so far."""
        return Path(self.folder, "output").read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Return the living processes that the program has started, those without their parent or session too."""
        return [process for process in psutil.process_iter() if self._owns(process) and is_alive(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return self.folder in (process.cwd(), process.environ().get(_MARK))
        except (psutil.Error, OSError):  # gone, or of another user
            return False


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        pass
