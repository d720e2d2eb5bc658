"""Objects that do a deed at one moment of their life, and the steps that carry them; importable by children."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any, NoReturn

from fuseline import Step
from fuseline.policies import StepPolicy
from fuseline.testing import Gate


def die_by(number: signal.Signals) -> NoReturn:
    os.kill(os.getpid(), number)
    while True:  # a signal to oneself may take a moment
        pass


def fail() -> NoReturn:
    raise ValueError("boom")


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


#: What a step can do to be rid of its process, or of the code around it.
DEEDS: dict[str, Any] = {
    "Exception": fail,
    "sys.exit": lambda: sys.exit(3),
    "KeyboardInterrupt": interrupt,
    "exit 0": lambda: os._exit(0),
    "exit 3": lambda: os._exit(3),
    "SIGSEGV": lambda: die_by(signal.SIGSEGV),
    "SIGKILL": lambda: die_by(signal.SIGKILL),
    "SIGTERM": lambda: die_by(signal.SIGTERM),
}
#: Those that leave the process alive.
RAISED = ["Exception", "sys.exit", "KeyboardInterrupt"]


class Bomb:
    """Does ``deed`` when it is "pickled", "unpickled" or "collected".

    Args:
        spares: a process and a thread in which it is unpickled without harm: who dispatches tries whether it loads.
    """

    def __init__(self, moment: str, deed: str, spares: tuple[int, int] | None = None) -> None:
        self.moment = moment
        self.deed = deed
        self.spares = spares

    def __reduce__(self) -> Any:
        if self.moment == "pickled":
            DEEDS[self.deed]()
        return _load, (self.moment, self.deed, self.spares)

    def __del__(self) -> None:
        if self.moment == "collected":
            DEEDS[self.deed]()


def here() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _load(moment: str, deed: str, spares: tuple[int, int] | None) -> Any:
    if moment == "unpickled" and spares != here():
        DEEDS[deed]()
    return f"defused {deed}"


class Run(Step):
    def run_step(self, deed: str) -> None:
        DEEDS[deed]()


class Take(Step):
    """Has an argument that is a bomb."""

    def run_step(self, bomb: Bomb) -> Bomb:
        return bomb


class Make(Step):
    """Returns a bomb."""

    def run_step(self, moment: str, deed: str) -> Bomb:
        return Bomb(moment, deed)


class MakeTimed(Step):
    """Returns an object that a thread drops, with a deed, when its gate is opened, so long after it was sent."""

    def run_step(self, deed: str, gate: Gate, after: Gate) -> int:
        bombs = [Bomb("collected", deed)]

        def drop() -> None:
            gate.enter()
            bombs.clear()
            after.enter()

        threading.Thread(target=drop, daemon=True).start()
        return os.getpid()


class DiesOfSuccess(StepPolicy):
    """Ends the process when the step has returned."""

    def on_success(self, step: Step, result: Any) -> None:
        die_by(signal.SIGKILL)


class ForksAndDies(Step):
    """Has a fork that returns, and then dies itself."""

    def run_step(self) -> None:
        if fork := os.fork():
            os.waitpid(fork, 0)
            die_by(signal.SIGKILL)
