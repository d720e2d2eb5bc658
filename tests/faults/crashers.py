"""Steps that crash together or with much in their hands; importable by children, which then load nothing else."""

from __future__ import annotations

import os
import signal

from fuseline import Step
from fuseline.testing import Gate

LARGE = 8_000_000  #: bytes; many times what a pipe takes


class DieTogether(Step):
    """Dies when its gate is opened."""

    def run_step(self, gate: Gate) -> None:
        gate.enter()
        os.kill(os.getpid(), signal.SIGKILL)


class TakeMuch(Step):
    def run_step(self, data: bytes) -> int:
        return len(data)


class GiveMuch(Step):
    def run_step(self) -> bytes:
        return b"x" * LARGE
