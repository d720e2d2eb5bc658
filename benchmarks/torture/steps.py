"""The hostile steps, and the good ones around them. Children import this module, so it imports next to nothing."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

__all__ = ["HOSTILE", "ORPHANS", "HostileStep", "double", "stay", "wait_to_be_let_go"]

#: Seconds that a good step waits to be let go: a library may queue the hostile step behind it, and be right to.
_PATIENCE = 5.0

#: Seconds that the parent of a fork gives the fork to be the first to return.
_HEAD_START = 1.0


# -- good steps -------------------------------------------------------------------------------------------------------


def double(value: int) -> int:
    return value * 2


def wait_to_be_let_go(fifo: str, value: int) -> int:
    """Be in the middle of something until the hostile step has done its worst, then return as ``double`` does."""
    fd = os.open(fifo, os.O_RDWR)
    try:
        readable, _, _ = select.select([fd], [], [], _PATIENCE)
        if readable:
            os.read(fd, 1)
    finally:
        os.close(fd)
    return double(value)


def stay(fifo: str) -> NoReturn:
    """Say that this step runs, and run on."""
    fd = os.open(fifo, os.O_RDWR)
    os.write(fd, b".")
    while True:
        time.sleep(3600)


# -- hostile steps ----------------------------------------------------------------------------------------------------


def kill_itself() -> NoReturn:
    _die_by(signal.SIGKILL)


def exit_with_1() -> NoReturn:
    os._exit(1)


def crash() -> NoReturn:
    _die_by(signal.SIGSEGV)


def exit_with_0() -> NoReturn:
    os._exit(0)


class TwoArgumentsError(Exception):
    """Pickles, and does not unpickle: its ``__init__`` takes two arguments, its ``args`` has one."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


def raise_two_arguments() -> NoReturn:
    raise TwoArgumentsError("fit", "diverged")


class CannotLoad:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> NoReturn:
    raise RuntimeError("cannot be loaded")


def return_what_cannot_load() -> CannotLoad:
    return CannotLoad()


def return_a_lock() -> Any:
    return threading.Lock()


def leave() -> NoReturn:
    sys.exit(3)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def close_all_descriptors() -> str:
    os.closerange(0, 4096)
    return "done"


def fork_and_both_return() -> str:
    """Return in two processes, in the fork first: as where the parent has something left to do."""
    forks_end, others_end = os.pipe()
    if os.fork() == 0:
        return "fork"
    os.close(others_end)
    select.select([forks_end], [], [], _HEAD_START)  # readable when the fork is gone
    os.close(forks_end)
    return "parent"


def _die_by(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    while True:  # a signal to oneself may take a moment
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileStep:
    name: str  #: as in ``--steps``
    title: str  #: its line in the table, Markdown
    run: Callable[[], Any]
    value: str | None = None  #: what it returns if it ends well
    must_end_well: bool = False  #: an exception is wrong, too


HOSTILE = {
    step.name: step
    for step in (
        HostileStep(name="sigkill", title="SIGKILLs itself", run=kill_itself),
        HostileStep(name="exit-1", title="`os._exit(1)`", run=exit_with_1),
        HostileStep(name="sigsegv", title="dies by SIGSEGV", run=crash),
        HostileStep(name="exit-0", title="`os._exit(0)`", run=exit_with_0),
        HostileStep(
            name="exception", title="raises an exception with a 2-argument `__init__`", run=raise_two_arguments
        ),
        HostileStep(name="unpickle", title="returns what cannot be unpickled", run=return_what_cannot_load),
        HostileStep(name="pickle", title="returns what cannot be pickled", run=return_a_lock),
        HostileStep(name="sys-exit", title="`sys.exit(3)`", run=leave),
        HostileStep(name="interrupt", title="raises `KeyboardInterrupt`", run=interrupt),
        HostileStep(name="close", title="closes all descriptors", run=close_all_descriptors, value="done"),
        HostileStep(
            name="fork", title="forks, and both return", run=fork_and_both_return, value="parent", must_end_well=True
        ),
    )
}

#: As in ``--steps``: no hostile step, but SIGKILL for the program while its children are busy.
ORPHANS = "orphans"
