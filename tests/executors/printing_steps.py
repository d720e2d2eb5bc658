"""Steps that print and log in every way; importable by children, which then load nothing else."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time

from fuseline import Step, current_run
from fuseline.testing import Gate

_log = logging.getLogger("some.library")


class Print(Step):
    """Writes ``text`` by each of the usual means."""

    def run_step(self, text: str) -> None:
        print(f"{text} by print")
        print(f"{text} by stderr", file=sys.stderr)
        sys.stdout.buffer.write(f"{text} by buffer\n".encode())
        sys.stdout.flush()
        os.write(1, f"{text} by descriptor\n".encode())
        subprocess.run(["echo", f"{text} by a subprocess"], check=True)
        _log.warning("%s by logging", text)
        sys.stdout.write(f"{text} without an end of line")


class Say(Step):
    def run_step(self, text: str) -> str:
        print(text)
        return text


class SayTwice(Step):
    def run_step(self, text: str) -> None:
        print(text)
        print(text, file=sys.stderr)


class SayNothing(Step):
    def run_step(self) -> None:
        pass


class PrintAndFail(Step):
    def run_step(self) -> None:
        print("\x1b[31mred", file=sys.stderr)
        raise ValueError("no good")


class PrintAndHang(Step):
    def run_step(self) -> None:
        print("about to hang", flush=True)
        self.hang_here()

    def hang_here(self) -> None:
        pow(7, 10**9)


class PrintAndDie(Step):
    def run_step(self, how: str) -> None:
        print("about to die", flush=True)
        if how == "in C":
            ctypes.string_at(0)
        os.kill(os.getpid(), signal.SIGKILL)


class PrintAndWait(Step):
    def run_step(self, gate: Gate) -> None:
        print("before the gate")
        gate.enter()


class Flood(Step):
    def run_step(self, kib: int) -> None:
        line = "x" * 1023 + "\n"
        for _ in range(kib):
            sys.stdout.write(line)
        print("the end")


class LogForEver(Step):
    def run_step(self) -> None:
        log = logging.getLogger("some.library")
        while True:
            log.warning("x" * 1000)


class FloodForEver(Step):
    def run_step(self) -> None:
        while True:
            os.write(1, b"y\n" * 10_000)


class FailTwice(Step):
    def run_step(self) -> int:
        run = current_run()
        assert run is not None
        print(f"attempt {run.attempt}")
        if run.attempt is not None and run.attempt < 3:
            raise ValueError("not yet")
        return run.attempt or 0


class Log(Step):
    def run_step(self) -> None:
        _log.debug("a detail")
        _log.info("for information")
        try:
            {}["inner"]
        except KeyError:
            _log.exception("went wrong with %s", {"a": 1}, extra={"user": "me", "thing": object()})
        threading.Thread(target=_log.error, args=("from a thread",)).start()


class HandlesSigtermInAFork(Step):
    def run_step(self) -> int:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class LogInAFork(Step):
    def run_step(self) -> int:
        pid = os.fork()
        if pid == 0:
            _log.error("from the fork")
            sys.stderr.flush()
            os._exit(0)
        return os.waitpid(pid, 0)[1]


class LogInASignalHandler(Step):
    def run_step(self) -> None:
        signal.signal(signal.SIGPROF, lambda number, frame: _log.warning("tick"))
        signal.setitimer(signal.ITIMER_PROF, 0.0005, 0.0005)
        for i in range(2000):
            _log.warning("record %d", i)


class WriteToTheDescriptor(Step):
    def run_step(self, text: str) -> None:
        os.write(1, text.encode())
        time.sleep(0.001)  # so long that it may have printed without the knowledge of Python
