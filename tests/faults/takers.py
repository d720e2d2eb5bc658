"""Steps that take memory and time; importable by children, which then load nothing else."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from fuseline import Step, current_run
from fuseline.testing import Gate

MB = 2**20


#: What a step takes that takes too much: not more than any machine has, if the limit does not work.
TOO_MUCH = 400 * MB


def fill(size: int) -> list[bytes]:
    """Take memory in small pieces, each of them touched."""
    return [b"x" * MB for _ in range(size // MB)]


class Take(Step):
    """Takes too much memory in one of several ways, up to an attempt, and keeps it until it is killed."""

    def run_step(self, how: str, until_attempt: int = 10**9) -> Any:
        run = current_run()
        assert run is not None
        assert run.attempt is not None
        if run.attempt > until_attempt:
            return os.getpid()
        if how == "at once":
            return len(bytes(8 * 2**30))
        if how == "slowly":
            kept = fill(TOO_MUCH)
        else:
            use = f"x = [b'x' * 2**20 for _ in range({TOO_MUCH // MB})]; import time; time.sleep(3600)"
            in_session = how == "in a grandchild of another session"
            kept = [subprocess.Popen([sys.executable, "-c", use], start_new_session=in_session)]
        while kept:
            signal.pause()
        return None


class Use(Step):
    """Uses less than its limit, and returns when it is let go."""

    def run_step(self, go: str, file: str) -> int:
        kept = fill(50 * MB)
        with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
            kept.append(mapped[:1])
        with open(go) as pipe:
            pipe.read()
        return len(kept)


class Scores(Step):
    def run_step(self) -> list[int]:
        show = ["cat", "/proc/self/oom_score_adj"]
        return [int(Path(show[1]).read_text()), int(subprocess.check_output(show))]


class Stuck(Step):
    """Says who it is and whom it has started, then is stuck in a C call."""

    def run_step(self, gate: Gate) -> int:
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        gate.enter(f"{os.getpid()} {helper.pid}")
        return pow(7, 10**9)


class Held(Step):
    def run_step(self, gate: Gate) -> str:
        gate.enter()
        return "let go"
