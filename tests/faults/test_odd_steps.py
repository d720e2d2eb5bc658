"""Many more hostile steps, side by side among good ones: each has an end with a name, and the good ones succeed.

Left out, because no library can contain it: a step that signals the program (``os.kill(os.getppid(), ...)``) does to it
what any process of the user may do.
"""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from fuseline import ProcessEngine, StepCrashed, StepTimedOut, Workflow
from fuseline.errors import NotPicklableError, RemoteStepError
from fuseline.policies import StepTimeoutPolicy

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from arena import BROKERS, brokers, end_of
from hostile import DEEDS, Good
from odd_deeds import ENDING, HANGING, TAINTING, Hermit, Odd
from started import started_since

#: The eleven of the comparison with other pools; all others are further ones.
COMPARED = {
    "SIGKILL",
    "exit 1",
    "SIGSEGV",
    "exit 0",
    "exception that cannot be unpickled",
    "result that cannot be unpickled",
    "result that cannot be pickled",
    "sys.exit",
    "KeyboardInterrupt",
    "closes all descriptors",
    "forks and both return",
}

#: {deed: (class of the error, a part of its message)}
ERRORS: dict[str, tuple[Any, str]] = {
    "os.abort": (StepCrashed, "died by SIGABRT"),
    "stack overflow in C": ((StepCrashed, RecursionError), ""),  # newer versions of Python count such calls
    "reads beyond the end of a file in memory": (StepCrashed, "died by SIGBUS"),
    "reads address 0": (StepCrashed, "died by SIGSEGV"),
    "uses up its processor time": (StepCrashed, "died by SIGXCPU"),
    "alarm": (StepCrashed, "died by SIGALRM"),
    "dumps a traceback and dies": (StepCrashed, "died by SIGSEGV"),
    "kills its process group": (StepCrashed, "died by SIGKILL"),
    "os._exit in a thread": (StepCrashed, "exit code 4"),
    "becomes another program": (StepCrashed, "exit code 9"),
    "forks and the first one dies": (StepCrashed, "exit code 6"),
    "imports a module that kills": (StepCrashed, "died by SIGKILL"),
    "exception whose __reduce__ kills": (StepCrashed, "died by SIGKILL"),
    "exception whose loading kills": (StepCrashed, "died by SIGKILL"),
    "exception whose __str__ kills": (StepCrashed, "died by SIGKILL"),
    "result whose pickling kills": (StepCrashed, "died by SIGKILL"),
    "result whose loading kills": (StepCrashed, "died by SIGKILL"),
    "result whose __del__ kills": (StepCrashed, "died by SIGKILL"),
    "BaseException of its own": (BaseException, "own"),
    "GeneratorExit": (GeneratorExit, "own"),
    "StopIteration": (StopIteration, "own"),
    "exception whose __reduce__ exits": (RemoteStepError, "SystemExit"),
    "exception with a cause that leads in a circle": (ValueError, "first"),
    "exception group of 5,000 levels": ((RemoteStepError, ExceptionGroup), "group"),
    "exception with a lock": (RemoteStepError, "has a lock"),
    "exception of 20 MB": (ValueError, "x" * 20_000_000),
    "sys.exit with an object that cannot be shown": (StepCrashed, "__repr__ raised RuntimeError"),
    "signal handler that raises": (BaseException, "from a handler"),
    "tracer that raises": (BaseException, "from a tracer"),
    "tries to leave its session": (PermissionError, ""),
    "more memory than there is": (MemoryError, ""),
    "returns a frame": (NotPicklableError, "frame"),
    "returns an open file": (NotPicklableError, "TextIOWrapper"),
    "returns a socket": (NotPicklableError, "socket"),
    "returns a coroutine": (NotPicklableError, "coroutine"),
    "returns a thread": (NotPicklableError, "is of type _thread."),  # a lock, or since Python 3.13 a handle
}

#: {deed: whether a result is the right one}
RESULTS: dict[str, Any] = {
    "returns a module": lambda result: result is os,
    "returns a dict with NaN keys": lambda result: [*result.values()] == [1, 2] and all(map(math.isnan, result)),
    "returns what cannot be shown, compared or hashed": lambda result: type(result) is Hermit,
    "returns its own step": lambda result: type(result) is Odd and result.name == "itself",
    "returns a memoryview": lambda result: result == b"view",
    "result whose __del__ raises": lambda result: result == "as usual",
}
RESULTS |= {deed: lambda result: result == "returned" for deed in ENDING if deed not in {*RESULTS, *ERRORS}}


class Ends(NamedTuple):
    odd: dict[str, Any]  #: {deed: result or exception}
    good: list[Any]  #: results of the good steps between them
    left: list[list[str]]  #: command lines of what the steps have started and nobody has ended


def run_all(kind: str) -> Ends:
    """Run them all, each in a run of its own."""
    before = set(psutil.pids())
    ending = Workflow(outputs=[Odd()], name="ending")
    hanging = Workflow(outputs=[Odd(policies=[StepTimeoutPolicy(0.5)])], name="hanging")
    good = Workflow(outputs=[Good()], name="good")
    runs: dict[str, str] = {}
    siblings: list[str] = []
    with brokers(kind) as broker:

        def dispatch(workflow: Workflow, deed: str) -> str:
            run = broker.dispatch_workflow(workflow.to_schema(), {"deed": deed})
            siblings.append(broker.dispatch_workflow(good.to_schema(), {"value": len(siblings)}))
            return run

        runs |= {deed: dispatch(ending, deed) for deed in ENDING if deed not in TAINTING}
        runs |= {deed: dispatch(hanging, deed) for deed in HANGING}
        ProcessEngine(broker, [ending, hanging, good], processes=3).work()
        for deed in TAINTING:  # one after the other, and each in a child that the next one does not meet
            runs[deed] = dispatch(ending, deed)
            dispatch(ending, "os.abort")
        ProcessEngine(broker, [ending, good], processes=1).work()
        left = started_since(before, "time.sleep(3600)")
        odd = {deed: end_of(broker, run) for deed, run in runs.items()}
        return Ends(odd, [end_of(broker, run) for run in siblings], left)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", BROKERS)
def test_each_has_its_end_and_good_steps_between_them_succeed_and_nothing_is_left(kind: str) -> None:
    ends = run_all(kind)
    assert {deed: end for deed, end in ends.odd.items() if not is_as_it_must_be(deed, end)} == {}
    assert ends.good == [2 * i for i in range(len(ENDING) + len(HANGING) + len(TAINTING))]
    assert ends.left == []


def is_as_it_must_be(deed: str, end: Any) -> bool:
    if deed in HANGING:
        return isinstance(end, StepTimedOut) and end.killed
    if deed in ERRORS:
        cls, text = ERRORS[deed]
        return isinstance(end, cls) and text in str(end)
    return bool(RESULTS[deed](end))


def test_they_are_as_many_as_the_page_on_reliability_says() -> None:
    assert set(DEEDS) >= COMPARED
    assert {*ERRORS, *RESULTS} == set(ENDING) > TAINTING
    deeds = {*DEEDS, *ENDING, *HANGING}
    assert len(deeds) == len(DEEDS) + len(ENDING) + len(HANGING)  # none is counted twice
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    [said] = re.findall(r"(\d+) further hostile steps", page)
    assert len(deeds - COMPARED) == int(said) >= 40
