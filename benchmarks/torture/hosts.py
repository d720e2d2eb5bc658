"""Starts one fresh program per library and hostile step, and looks what is left of it."""

from __future__ import annotations

import os
import select
import subprocess
import time

from benchmarks.programs import Program, is_alive
from benchmarks.torture.libraries import WORKERS, Library
from benchmarks.torture.program import FIFO, read_outcomes
from benchmarks.torture.steps import HOSTILE, ORPHANS
from benchmarks.torture.verdicts import HANGS, Verdict, judge, judge_orphans

__all__ = ["AFTERMATH", "run_case"]

#: Seconds after the death of its program at which a child that is alive counts as an orphan.
AFTERMATH = 2.0


def run_case(library: Library, step: str, bound: float) -> Verdict:
    """Run one library with one hostile step, or with ``ORPHANS``. Blocks for little more than ``bound`` seconds."""
    with _Case("benchmarks.torture.program", library.driver, step) as case:
        if step == ORPHANS:
            return case.kill_the_program(bound)
        return case.let_the_program_end(step, bound)


class _Case(Program):
    def prepare(self) -> None:
        os.mkfifo(os.path.join(self.folder, FIFO))

    def let_the_program_end(self, step: str, bound: float) -> Verdict:
        try:
            exit_code = self.process.wait(bound)
        except subprocess.TimeoutExpired:
            exit_code = None
        return judge(HOSTILE[step], read_outcomes(self.folder), exit_code)

    def kill_the_program(self, bound: float) -> Verdict:
        if not self._wait_busy(bound):
            return Verdict(text=HANGS if self.process.poll() is None else "does not run here")
        children = {process for process in self.family() if process.pid != self.process.pid}
        self.process.kill()
        self.process.wait()
        time.sleep(AFTERMATH)  # the thing measured
        alive = {process for process in children | set(self.family()) if is_alive(process)}
        return judge_orphans(before=len(children | alive), alive=len(alive))

    def _wait_busy(self, bound: float) -> bool:
        """Return whether all workers had something to do within ``bound`` seconds."""
        deadline = time.monotonic() + bound
        busy = 0
        with open(os.path.join(self.folder, FIFO), "r+b", buffering=0) as pipe:
            while busy < WORKERS and self.process.poll() is None and time.monotonic() < deadline:
                readable, _, _ = select.select([pipe], [], [], 0.1)  # looks now and then whether the program is there
                busy += len(pipe.read(1)) if readable else 0
        return busy == WORKERS
