"""The program of one library and one hostile step: runs a batch and writes down how each call has ended.

``python -m benchmarks.torture.program DRIVER STEP`` in a folder of its own, which has a named pipe for those that wait.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
from collections.abc import Sequence

from benchmarks.torture.libraries import WORKERS, Batch, Call, Outcome, find_driver
from benchmarks.torture.steps import HOSTILE, ORPHANS, double, stay, wait_to_be_let_go

__all__ = ["EXPECTED", "FIFO", "HOSTILE_CALL", "OUTCOMES", "read_outcomes"]

FIFO = "fifo"
OUTCOMES = "outcomes.json"

#: What the siblings return, in their order.
EXPECTED = [double(value) for value in range(7)]

#: Where the hostile call is in the batch.
HOSTILE_CALL = 2


def main(driver: str, step: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a step that dies by SIGSEGV leaves no file
    batch = make_batch(step, os.path.abspath(FIFO))
    program = os.getpid()
    try:
        find_driver(driver)(batch)
    except BaseException as error:
        if os.getpid() == program and not os.path.exists(OUTCOMES):
            write_outcomes([Outcome.of_error(error)])
        raise


def make_batch(step: str, fifo: str) -> Batch:
    """Return good calls with a hostile one among them: one runs beside it, and most wait behind it."""
    pipe = os.open(fifo, os.O_RDWR)
    if step == ORPHANS:
        return Batch(calls=[(stay, (fifo,))] * WORKERS, hostile=0, let_go=_never, note=_never)
    calls: list[Call] = [(double, (i,)) for i in range(len(EXPECTED))]
    calls[HOSTILE_CALL - 1] = (wait_to_be_let_go, (fifo, HOSTILE_CALL - 1))
    calls.insert(HOSTILE_CALL, (HOSTILE[step].run, ()))
    # more than one byte, because a library may run the waiting sibling again
    return Batch(calls=calls, hostile=HOSTILE_CALL, let_go=lambda: os.write(pipe, b"." * 100), note=write_outcomes)


def write_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Write all of them, or the one of the driver as a whole; nobody finds a file that is half written."""
    with open(f"{OUTCOMES}.new", "w") as file:
        json.dump([dataclasses.asdict(outcome) for outcome in outcomes], file)
    os.rename(f"{OUTCOMES}.new", OUTCOMES)


def read_outcomes(folder: str) -> list[Outcome] | None:
    """Return what a program has written down in its folder, None if it has not got that far."""
    try:
        with open(os.path.join(folder, OUTCOMES)) as file:
            return [Outcome(**outcome) for outcome in json.load(file)]
    except FileNotFoundError:
        return None


def _never(*_: object) -> None:
    raise AssertionError("a step that stays has ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
