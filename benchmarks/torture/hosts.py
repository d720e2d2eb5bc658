"""Starts one fresh program per library and hostile step, and ends it with all it has started."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.torture.libraries import WORKERS, Library
from benchmarks.torture.program import FIFO, read_outcomes
from benchmarks.torture.steps import HOSTILE, ORPHANS
from benchmarks.torture.verdicts import HANGS, Verdict, judge, judge_orphans

__all__ = ["AFTERMATH", "run_case"]

#: Seconds after the death of its program at which a child that is alive counts as an orphan.
AFTERMATH = 2.0

#: In the environment of a program and of all it starts. Some overwrite theirs with a title, some change the folder they
#: work in; nobody known does both.
_MARK = "TORTURE_CASE"

_ROOT = Path(__file__).parents[2]


def run_case(library: Library, step: str, bound: float) -> Verdict:
    """Run one library with one hostile step, or with ``ORPHANS``. Blocks for little more than ``bound`` seconds."""
    with _Host(library, step) as host:
        if step == ORPHANS:
            return host.kill_the_program(bound)
        return host.let_the_program_end(step, bound)


class _Host:
    """A program in a folder of its own. Afterwards folder and processes are gone."""

    def __init__(self, library: Library, step: str) -> None:
        self._arguments = [library.driver, step]

    def __enter__(self) -> _Host:
        self._folder = tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True)
        os.mkfifo(os.path.join(self._folder.name, FIFO))
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        with open(os.path.join(self._folder.name, "output"), "w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.torture.program", *self._arguments],
                cwd=self._folder.name,
                env={**os.environ, "PYTHONPATH": path, "TMPDIR": self._folder.name, _MARK: self._folder.name},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        while family := self._family():  # what is being started while others are killed comes with the next round
            for process in family:
                _kill(process)
            psutil.wait_procs(family, timeout=1)
        self._process.wait()
        self._folder.cleanup()

    def let_the_program_end(self, step: str, bound: float) -> Verdict:
        try:
            exit_code = self._process.wait(bound)
        except subprocess.TimeoutExpired:
            exit_code = None
        return judge(HOSTILE[step], read_outcomes(self._folder.name), exit_code)

    def kill_the_program(self, bound: float) -> Verdict:
        if not self._wait_busy(bound):
            return Verdict(text=HANGS if self._process.poll() is None else "does not run here")
        children = {process for process in self._family() if process.pid != self._process.pid}
        self._process.kill()
        self._process.wait()
        time.sleep(AFTERMATH)  # the thing measured
        alive = {process for process in children | set(self._family()) if _is_alive(process)}
        return judge_orphans(before=len(children | alive), alive=len(alive))

    def _wait_busy(self, bound: float) -> bool:
        """Return whether all workers had something to do within ``bound`` seconds."""
        deadline = time.monotonic() + bound
        busy = 0
        with open(os.path.join(self._folder.name, FIFO), "r+b", buffering=0) as pipe:
            while busy < WORKERS and self._process.poll() is None and time.monotonic() < deadline:
                readable, _, _ = select.select([pipe], [], [], 0.1)  # looks now and then whether the program is there
                busy += len(pipe.read(1)) if readable else 0
        return busy == WORKERS

    def _family(self) -> list[psutil.Process]:
        """Return the living processes that the program has started, those without their parent or session too."""
        return [process for process in psutil.process_iter() if self._owns(process) and _is_alive(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return self._folder.name in (process.cwd(), process.environ().get(_MARK))
        except (psutil.Error, OSError):  # gone, or of another user
            return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        pass
