"""Steps that do what breaks other pools; importable by children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec

from fuseline import Step, current_run
from fuseline.testing.steps import CannotLoad, CannotLoadError


class Good(Step):
    def run_step(self, value: int) -> int:
        return value * 2


class Descriptors(Step):
    """Says what its descriptors are of."""

    def run_step(self, deed: str) -> list[str]:
        links = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # that of the folder itself
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
        return links


class Hostile(Step):
    """Does ``deed`` (a name below) until the attempt after ``until_attempt``, which behaves."""

    def run_step(self, deed: str, until_attempt: int = 10**9) -> Any:
        run = current_run()
        assert run is not None
        assert run.attempt is not None
        if run.attempt > until_attempt:
            return "behaved"
        return DEEDS[deed]()


class Forge(Step):
    """Puts a report on itself among what its child says, and goes on."""

    def __init__(self, report: list[Any]) -> None:
        super().__init__()
        self.report = report

    def run_step(self) -> None:
        frame: Any = sys._getframe()
        while type(server := frame.f_locals.get("self")).__name__ != "_Server":
            frame = frame.f_back
        kind, _, *rest = self.report
        body = msgspec.msgpack.encode([kind, server._stamp.read().token, *rest])
        server._line._outbox.put(memoryview(body))
        server._line.nudge()
        while True:  # until it is killed for it
            time.sleep(3600)


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    while True:
        pass


def raise_two_arguments() -> None:
    raise CannotLoadError("fit", "diverged")


def close_all_descriptors() -> None:
    os.closerange(0, 256)


def close_all_and_stay() -> None:
    os.closerange(0, 256)
    while True:
        pass


def write_garbage_into_every_descriptor() -> str:
    for fd in range(3, 256):
        try:
            os.write(fd, b"garbage" * 10)
        except OSError:
            pass
    return "returned"


def fork_and_both_return() -> str:
    return "child" if os.fork() == 0 else "parent"


def raise_in_str() -> None:
    class Grumpy(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    raise Grumpy


def recurse_without_end() -> Any:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def ignore_everything() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            continue


def stop_myself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        pass


def wait_for_a_lock_for_ever() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def start_processes_and_hang() -> None:
    nested = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)']); "
    subprocess.Popen([sys.executable, "-c", nested + "time.sleep(3600)"])
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
    time.sleep(3600)


DEEDS: dict[str, Any] = {
    "SIGKILL": lambda: die_by(signal.SIGKILL),
    "SIGSEGV": lambda: die_by(signal.SIGSEGV),
    "SIGTERM": lambda: die_by(signal.SIGTERM),
    "SIGABRT": lambda: die_by(signal.SIGABRT),
    "exit 0": lambda: os._exit(0),
    "exit 1": lambda: os._exit(1),
    "exit 3": lambda: os._exit(3),
    "exception that cannot be unpickled": raise_two_arguments,
    "result that cannot be unpickled": CannotLoad,
    "result that cannot be pickled": threading.Lock,
    "result that recurses too deep": recurse_without_end,
    "generator as a result": lambda: (i for i in range(3)),
    "sys.exit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "exception whose __str__ raises": raise_in_str,
    "closes all descriptors": close_all_descriptors,
    "closes all descriptors and stays": close_all_and_stay,
    "writes garbage into every descriptor": write_garbage_into_every_descriptor,
    "forks and both return": fork_and_both_return,
    "python loop": lambda: [None for _ in iter(int, 1)],
    "C call that holds the GIL": lambda: pow(7, 10**9),
    "sleep": lambda: time.sleep(3600),
    "lock": wait_for_a_lock_for_ever,
    "ignores SIGTERM and swallows everything": ignore_everything,
    "SIGSTOP": stop_myself,
    "starts processes and hangs": start_processes_and_hang,
}
