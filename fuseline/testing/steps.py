"""The steps that contract suites run: well-behaved ones, and one for each way to misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any, NoReturn

from fuseline.context import current_run
from fuseline.step import Step
from fuseline.testing.gate import Gate

__all__ = [
    "AsyncEcho",
    "CannotLoad",
    "CannotLoadError",
    "CountSetups",
    "Die",
    "Echo",
    "FailingSetup",
    "HasLock",
    "Hold",
    "HoldWithChild",
    "Interrupt",
    "LeaveByExit",
    "Mark",
    "MarkAndRaise",
    "Raise",
    "RaiseCannotLoad",
    "RaiseUnshowable",
    "ReturnCannotLoad",
    "ReturnLock",
    "SpinForever",
    "StuckInC",
    "TakeMemory",
    "UnshowableError",
    "WhereAmI",
]


class Echo(Step):
    """Returns what it gets."""

    def run_step(self, value: Any = None) -> Any:
        return value


class AsyncEcho(Step):
    async def run_step(self, value: Any = None) -> Any:
        import asyncio  # large, and most of these steps need it as little as others do

        await asyncio.sleep(0)
        return value


class WhereAmI(Step):
    """Returns the pid of its process and the name of its thread."""

    def run_step(self, value: Any = None) -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name


class Raise(Step):
    def run_step(self, value: Any = None) -> NoReturn:
        raise ValueError(f"no good: {value}")


class CannotLoadError(Exception):
    """Pickles, and does not unpickle: its __init__ takes two arguments, its args have one."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


class RaiseCannotLoad(Step):
    def run_step(self, value: Any = None) -> NoReturn:
        raise CannotLoadError("fit", "diverged")


class UnshowableError(Exception):
    """Has a text, and no traceback can be made of it."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]  # that is the point
        raise RuntimeError("no notes")


class RaiseUnshowable(Step):
    def run_step(self, value: Any = None) -> NoReturn:
        raise UnshowableError("cannot be shown")


class CannotLoad:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> NoReturn:
    raise RuntimeError("cannot be loaded")


class ReturnCannotLoad(Step):
    def run_step(self, value: Any = None) -> CannotLoad:
        return CannotLoad()


class ReturnLock(Step):
    def run_step(self, value: Any = None) -> Any:
        return {"model": 1, "lock": threading.Lock()}


class HasLock(Step):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def run_step(self, value: Any = None) -> Any:
        return value


class Mark(Step):
    """Adds a byte to a file."""

    def run_step(self, path: str) -> None:
        with open(path, "ab") as file:
            file.write(b".")


class MarkAndRaise(Mark):
    """Does that, and fails."""

    def run_step(self, path: str) -> NoReturn:
        super().run_step(path)
        raise ValueError("no good")


class LeaveByExit(Step):
    def run_step(self, value: int = 3) -> NoReturn:
        sys.exit(value)


class Interrupt(Step):
    def run_step(self, value: Any = None) -> NoReturn:
        raise KeyboardInterrupt


class FailingSetup(Step):
    def setup(self) -> None:
        raise OSError("no such model")

    def run_step(self, value: Any = None) -> None:
        raise AssertionError("must not run without setup")


class CountSetups(Step):
    """Returns how often it was set up where it runs; appends a line to ``path`` when it is torn down."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.setups = 0

    def setup(self) -> None:
        self.setups += 1

    def run_step(self, value: Any = None) -> int:
        return self.setups

    def teardown(self) -> None:
        with open(self.path, "a") as file:
            file.write(f"torn down after {self.setups} in {os.getpid()}\n")


class Hold(Step):
    """Enters a gate with its pid and waits there."""

    def run_step(self, gate: Gate) -> str:
        gate.enter(str(os.getpid()))
        return "let go"


class HoldWithChild(Step):
    """Starts two processes that would run for an hour, enters a gate with its pid and theirs, and waits there.

    The second one has a session of its own, and so is in no group of the first.
    """

    def run_step(self, gate: Gate) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(3600)"]
        process = subprocess.Popen(command)
        other = subprocess.Popen(command, start_new_session=True)
        gate.enter(f"{os.getpid()} {process.pid} {other.pid}")


class TakeMemory(Step):
    """Takes memory in small pieces, up to ``most`` bytes, and keeps it."""

    def run_step(self, most: int) -> NoReturn:
        kept = [b"x" * 2**20 for _ in range(most // 2**20)]
        while kept:
            signal.pause()
        raise AssertionError("unreachable")


class SpinForever(Step):
    """Never returns, and runs Python instructions all the time, so that it can be interrupted."""

    def run_step(self, value: Any = None) -> NoReturn:
        while True:
            pass


class StuckInC(Step):
    """Is stuck for hours in one C call that holds the GIL."""

    def run_step(self, value: Any = None) -> int:
        return pow(7, 10**9)  # type: ignore[no-any-return]


class Die(Step):
    """Ends its process: ``how`` is the name of a signal, or an exit code. With an attempt number, only up to that."""

    def run_step(self, how: str | int, until_attempt: int = 10**9) -> str:
        run = current_run()
        assert run is not None
        assert run.attempt is not None
        if run.attempt > until_attempt:
            return "survived"
        if isinstance(how, int):
            os._exit(how)
        os.kill(os.getpid(), signal.Signals[how])
        while True:  # a signal to oneself may take a moment
            pass
