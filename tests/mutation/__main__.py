"""Runs the scheduler's tests against each mutant of it, and lists those that no test notices.

    python -m tests.mutation [--jobs 2] [--sample N] [--quick] [module ...]

Tests are collected once, and run to see which functions each of them calls. For each mutant, a fork of this process
gives one function other code, in place, and runs the tests that call it until the first fails: those first that have
noticed the most mutants of that function or module, then the quick ones. A test has bounds for its processor time and
its time: what takes longer goes in circles, or waits for ever, which counts as noticed.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import resource
import signal
import sys
import threading
import time
import types
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from fuseline.testing import Census
from tests.mutation.mutants import Mutant, find_mutants

ROOT = Path(__file__).parents[2]
PACKAGE = "fuseline/scheduler"
TESTS = [
    "test_scheduler_*.py",
    "test_states.py",
    "test_foreign_schemas.py",
    "test_edges.py",
    "test_binding.py",
    "test_workflow_timeout.py",
]
#: These are about the tests, or take long and notice nothing that others do not.
NOT_THESE = "not planted_bug and not 10_000 and not long_chain"
SURVIVED, NOTICED = 0, 1


class Runner:
    """A plugin for pytest that runs what was collected once for each mutant."""

    def __init__(self, mutants: list[Mutant], jobs: int) -> None:
        self.survivors: list[Mutant] = []
        self._mutants = mutants
        self._jobs = jobs
        self._running: dict[int, tuple[Mutant, list[pytest.Item], int]] = {}  #: {pid: (its mutant, tests, pipe)}
        self._costs: dict[pytest.Item, float] = {}  #: in seconds of processor time, while its calls are noted
        self._callers: dict[types.CodeType, list[pytest.Item]] = defaultdict(list)
        #: By function, and by module: how many of its mutants a test was the first to notice.
        self._noticed: dict[object, Counter[pytest.Item]] = defaultdict(Counter)

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings  # not before pytest has set up its part of it

        # The same answer each time, and none of the many runs that make a failing history short.
        settings.register_profile(
            "mutation", derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False
        )
        settings.load_profile("mutation")
        # A look at all processes costs more than most of the tests, and a scheduler makes none.
        Census._left = lambda self: []  # type: ignore[method-assign]
        Census.__init__ = lambda self: None  # type: ignore[assignment, method-assign, misc]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            for code in self._calls(item):
                self._callers[code].append(item)
        for item in sorted(session.items, key=self._costs.__getitem__):  # one that fails again would notice anything
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        if session.testsfailed:
            raise pytest.UsageError("the tests fail without any mutant, or when they run again")
        for number, mutant in enumerate(self._mutants, 1):
            if len(self._running) == self._jobs:
                self._wait()
            self._start(mutant, session)
            if not number % 25:
                print(f"{number} of {len(self._mutants)}, {len(self.survivors)} not noticed", flush=True)
        while self._running:
            self._wait()
        return True

    def _calls(self, item: pytest.Item) -> list[types.CodeType]:
        """Run a test, and return the code that it ran of what may be mutated."""
        called = {}

        def note(frame: types.FrameType, event: str, _: object) -> None:
            called[id(frame.f_code)] = frame.f_code

        begun = time.process_time()
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
        self._costs[item] = time.process_time() - begun
        return [code for code in called.values() if PACKAGE in code.co_filename]

    def _start(self, mutant: Mutant, session: pytest.Session) -> None:
        by_function, by_module = self._noticed[mutant.path, mutant.function], self._noticed[mutant.path]
        tests = sorted(
            self._callers[function_of(mutant).__code__],
            key=lambda item: (-by_function[item], -by_module[item], self._costs[item]),
        )
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            self._be(mutant, tests, session, writing)
        os.close(writing)
        self._running[pid] = mutant, tests, reading

    def _be(self, mutant: Mutant, tests: list[pytest.Item], session: pytest.Session, pipe: int) -> None:
        """Run the tests with a mutant, tell the place of the first that fails, and end this process."""
        result = NOTICED
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            session.config.pluginmanager.unregister(name="terminalreporter")  # it has a descriptor of its own
            function_of(mutant).__code__ = mutant.code
            for place, item in enumerate(tests):
                signal.setitimer(signal.ITIMER_PROF, 2 + 3 * self._costs[item])  # each of them ends this process
                signal.setitimer(signal.ITIMER_REAL, 60 + 30 * self._costs[item])
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if session.testsfailed:
                    os.write(pipe, b"%d" % place)
                    break
            else:
                result = SURVIVED
        finally:
            os._exit(result)

    def _wait(self) -> None:
        pid, status = os.waitpid(-1, 0)
        mutant, tests, pipe = self._running.pop(pid)
        with open(pipe, "rb") as told:
            place = told.read()
        if status == SURVIVED:
            self.survivors.append(mutant)
            print(f"not noticed: {mutant}" + " (no test calls it)" * (not tests), flush=True)
        elif place:
            for group in ((mutant.path, mutant.function), mutant.path):
                self._noticed[group][tests[int(place)]] += 1


def function_of(mutant: Mutant) -> types.FunctionType:
    """Return the function that a mutant is about, as everybody knows it."""
    name = ".".join(mutant.path.with_suffix("").parts).removesuffix(".__init__")
    found: object = importlib.import_module(name)
    for part in mutant.function.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    assert isinstance(found, types.FunctionType)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help=f"modules of {PACKAGE}, without .py; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--sample", type=int, default=1, metavar="N", help="only each N-th mutant")
    parser.add_argument("--quick", action="store_true", help="without the random histories, so less is noticed")
    options = parser.parse_args()
    os.chdir(ROOT)
    paths = [Path(PACKAGE, f"{name}.py") for name in options.modules] or sorted(Path(PACKAGE).glob("*.py"))
    mutants = [mutant for path in paths for mutant in find_mutants(path)][:: options.sample]
    runner = Runner(mutants, options.jobs)
    files = [str(path) for pattern in TESTS for path in sorted(Path("tests/core").glob(pattern))]
    arguments = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "faulthandler_timeout=0",
        "--tb=native",
        "-k",
        NOT_THESE + " and not random" * options.quick,
    ]
    status = pytest.main([*arguments, "--timeout=0", *files], plugins=[runner])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return int(status)
    print(f"{len(mutants)} mutants, {len(mutants) - len(runner.survivors)} noticed, {len(runner.survivors)} not:")
    for mutant in runner.survivors:
        print(f"  {mutant}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
