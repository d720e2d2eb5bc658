"""Steps that are idle, busy or stuck when their program dies; importable by children."""

from __future__ import annotations

import subprocess
import sys

from fuseline import Step
from fuseline.testing import Gate


class Stuck(Step):
    """Enters a gate; then it returns ("idle"), waits for a program ("busy"), or is in one call into C ("stuck")."""

    def run_step(self, gate: Gate, how: str) -> None:
        if how != "idle":
            helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        gate.enter(str(0 if how == "idle" else helper.pid))
        if how == "busy":
            helper.wait()
        elif how == "stuck":
            pow(7, 10**9)
