"""A step that starts processes of every kind; importable by children, which then load nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from fuseline import Step
from fuseline.testing import Gate

SLEEP = [sys.executable, "-c", "import time; time.sleep(3600)"]


#: Starts itself with one level less, says its pid, and stays.
NEST = (
    "import os, subprocess, sys, time\n"
    "depth, path = int(sys.argv[1]), sys.argv[2]\n"
    "code = sys.argv[3]\n"
    "open(path, 'a').write(f'{os.getpid()}\\n')\n"
    "if depth: subprocess.Popen([sys.executable, '-c', code, str(depth - 1), path, code])\n"
    "else: os.write(os.open(path + '.done', os.O_WRONLY), b'.')\n"
    "time.sleep(3600)\n"
)


def stay() -> NoReturn:
    while True:
        signal.pause()


class StartMany(Step):
    """Starts processes of every kind, enters a gate with their pids, and then hangs or crashes."""

    def run_step(self, gate: Gate, path: str, then: str) -> None:
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=stay, daemon=daemon) for daemon in (True, False)]
        for process in processes:
            process.start()
        popens = [
            subprocess.Popen(SLEEP),
            subprocess.Popen(["nohup", *SLEEP], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
            subprocess.Popen(SLEEP, start_new_session=True),
        ]
        os.mkfifo(path + ".done")
        nested = subprocess.Popen([sys.executable, "-c", NEST, "3", path, NEST])
        with open(path + ".done", "rb", buffering=0) as done:  # until the innermost of the four is there
            done.read(1)
        deep = Path(path).read_text().split()
        assert str(nested.pid) in deep
        pids = [os.getpid(), *(process.pid for process in processes), *(process.pid for process in popens), *deep]
        gate.enter(" ".join(map(str, pids)))
        if then == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        stay()


class LeaveOne(Step):
    """Returns the pid of a process that stays, in a session of its own."""

    def run_step(self) -> int:
        return subprocess.Popen(SLEEP, start_new_session=True).pid


class StartOneAtTheEnd(Step):
    """When it is told to end it starts a process in a session of its own, notes its pid, and stays."""

    def run_step(self, path: str) -> None:
        def start(number: int, frame: object) -> None:
            started = subprocess.Popen(SLEEP, start_new_session=True)
            Path(path).write_text(str(started.pid))

        signal.signal(signal.SIGTERM, start)
        stay()
