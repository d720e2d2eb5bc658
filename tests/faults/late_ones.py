"""Steps that overrun their timeouts; importable by children, which then load nothing else."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from fuseline import Step, current_run
from fuseline.testing import Gate


class HangOutOfReach(Step):
    """Ignores SIGTERM, says so, and stays."""

    def run_step(self, gate: Gate) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        gate.enter(str(os.getpid()))
        while True:
            time.sleep(3600)


class EndAtDeadline(Step):
    """Ends at the very instant of its deadline, or just beside it."""

    def run_step(self, lateness: float) -> str:
        run_until = time.monotonic() + 0.05 + lateness
        while time.monotonic() < run_until:
            pass
        return "returned"


class HangAtFirst(Step):
    """Hangs in its first attempt; in the second, says whether the first one's process is there still."""

    def run_step(self, path: str) -> Any:
        from fuseline.testing.contract import is_running

        run = current_run()
        assert run is not None
        if run.attempt == 1:
            Path(path).write_text(str(os.getpid()))
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(3600)
        time.sleep(0.3)  # a part of a limit that the first attempt has used up
        return is_running(int(Path(path).read_text()))
