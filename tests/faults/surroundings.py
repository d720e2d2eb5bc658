"""Steps that change their process, and one that looks at it; importable by children."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
from typing import Any

from fuseline import Step, current_run


class Look(Step):
    """Returns what a step can see of its process."""

    def run_step(self) -> dict[str, Any]:
        umask = os.umask(0o022)
        os.umask(umask)
        return {
            "pid": os.getpid(),
            "cwd": os.getcwd(),
            "umask": umask,
            "environ": dict(os.environ),
            "handlers": {number: repr(signal.getsignal(number)) for number in signal.valid_signals()},
            "timers": [signal.getitimer(timer) for timer in range(3)],
            "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            "path": list(sys.path),
            "descriptors": [os.path.realpath(f"/proc/self/fd/{fd}") for fd in range(3)],
            "streams": [(stream.fileno(), stream.closed) for stream in (sys.stdin, sys.stdout, sys.stderr)],
            "limits": [resource.getrlimit(number) for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
            "threads": threading.active_count(),
        }


class Change(Step):
    """Does ``deed`` (a name below), and returns the pid of its process."""

    def run_step(self, deed: str) -> int:
        DEEDS[deed]()
        return os.getpid()


class Draw(Step):
    """Returns what ``random`` and numpy draw, and the seed that it is told."""

    def run_step(self) -> tuple[float, float, int | None]:
        import numpy

        run = current_run()
        assert run is not None
        return random.random(), float(numpy.random.random()), run.seed


class OpenInSetup(Step):
    """Has a thread, a file and a directory of its own, from its ``setup`` on."""

    def setup(self) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        self.file = open(os.devnull)  # noqa: SIM115 - closed by teardown
        os.environ["FUSELINE_TEST"] = "set up"
        os.chdir("/")

    def run_step(self) -> tuple[int, bool, str | None, str]:
        return os.getpid(), self.file.closed, os.environ.get("FUSELINE_TEST"), os.getcwd()

    def teardown(self) -> None:
        self.file.close()


class HandleFromSetupOn(Step):
    """Has a handler of a signal, from its ``setup`` on, and returns how often that was called by now."""

    def setup(self) -> None:
        self.count = 0
        signal.signal(signal.SIGUSR1, self.handle)

    def handle(self, number: int, frame: Any) -> None:
        self.count += 1

    def run_step(self) -> int:
        signal.raise_signal(signal.SIGUSR1)
        return self.count


class Idle(Step):
    """Calls nothing that changes a process."""

    def run_step(self) -> str:
        return repr(signal.getsignal(signal.SIGUSR1))


def change_environ() -> None:
    os.environ["FUSELINE_TEST"] = "changed"
    os.environ["HOME"] = "/nowhere"
    del os.environ["PATH"]


def set_handlers() -> None:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def set_timers() -> None:
    signal.alarm(1)  # the signal of which would end the process
    signal.setitimer(signal.ITIMER_PROF, 60.0)


def close_streams() -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def close_standard_descriptors() -> None:
    for fd in range(3):
        os.close(fd)


def redirect_descriptors() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def lower_limits() -> None:
    for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
        _, hard = resource.getrlimit(number)
        resource.setrlimit(number, (0, hard))


def replace_path() -> None:
    sys.path = ["/nowhere"]


def replace_streams() -> None:
    sys.stdin, sys.stdout, sys.stderr = None, None, None  # type: ignore[assignment]


def start_thread(*, daemon: bool) -> None:
    threading.Thread(target=threading.Event().wait, name="left", daemon=daemon).start()


#: What can be undone, in the same child.
UNDONE = {
    "cwd": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o007),
    "environment": change_environ,
    "signal handlers": set_handlers,
    "timers": set_timers,
    "signal mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1}),
    "sys.path": lambda: sys.path.insert(0, "/nowhere"),
    "another sys.path": replace_path,
    "streams": replace_streams,
    "closed streams": close_streams,
    "closed descriptors": close_standard_descriptors,
    "redirected descriptors": redirect_descriptors,
    "resource limits": lower_limits,
}

#: What cannot, so that the child is replaced: {deed: a part of what is told}.
LEFT = {
    "thread": "thread 'left' running",
    "daemon thread": "thread 'left' running",
    "descriptor": "(/dev/null) open",
    "pipe": "(pipe:",
    "process": "(sleep) running",
}

DEEDS = UNDONE | {
    "thread": lambda: start_thread(daemon=False),
    "daemon thread": lambda: start_thread(daemon=True),
    "descriptor": lambda: os.open(os.devnull, os.O_RDONLY),
    "pipe": os.pipe,
    "process": lambda: subprocess.Popen(["sleep", "3600"]),
}
