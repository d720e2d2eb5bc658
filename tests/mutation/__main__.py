"""Runs the scheduler's tests against each mutant of it, and lists those that no test notices.

    python -m tests.mutation [--jobs 2] [--sample N] [--quick] [module ...]

Tests are collected once. For each mutant, a fork of this process gives one function other code, in place, and runs
them until the first fails, those first that were quick. It has ten times the processor time that they take otherwise:
what takes longer goes in circles, which counts as noticed.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import resource
import sys
import time
import types
from pathlib import Path

import pytest

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
#: What only looks whether the others are right.
NOT_MUTATED = {"invariants"}
#: These are about the tests, or take long and notice nothing that others do not.
NOT_THESE = "not planted_bug and not 10_000 and not long_chain"
SURVIVED, NOTICED = 0, 1


class Runner:
    """A plugin for pytest that runs what was collected once for each mutant."""

    def __init__(self, mutants: list[Mutant], jobs: int) -> None:
        self.survivors: list[Mutant] = []
        self._mutants = mutants
        self._jobs = jobs
        self._running: dict[int, Mutant] = {}
        self._durations: dict[str, float] = {}

    def pytest_sessionstart(self) -> None:
        from hypothesis import settings  # not before pytest has set up its part of it

        settings.register_profile("mutation", derandomize=True, database=None)  # the same answer each time
        settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._durations[report.nodeid] = self._durations.get(report.nodeid, 0.0) + report.duration

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        begun = time.process_time()
        if not self._passes(session):
            raise pytest.UsageError("the tests fail without any mutant")
        limit = 10 + int(10 * (time.process_time() - begun))
        session.items.sort(key=lambda item: self._durations[item.nodeid])
        for number, mutant in enumerate(self._mutants, 1):
            if len(self._running) == self._jobs:
                self._wait()
            pid = os.fork()
            if not pid:
                self._be(mutant, session, limit)
            self._running[pid] = mutant
            if not number % 25:
                print(f"{number} of {len(self._mutants)}, {len(self.survivors)} not noticed", flush=True)
        while self._running:
            self._wait()
        return True

    @staticmethod
    def _passes(session: pytest.Session) -> bool:
        for i, item in enumerate(session.items):
            after = session.items[i + 1] if i + 1 < len(session.items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if session.testsfailed:
                return False
        return True

    def _be(self, mutant: Mutant, session: pytest.Session, limit: int) -> None:
        """Run the tests with a mutant, and end this process."""
        result = NOTICED
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            session.config.pluginmanager.unregister(name="terminalreporter")  # it has a descriptor of its own
            plant(mutant)
            result = SURVIVED if self._passes(session) else NOTICED
        finally:
            os._exit(result)

    def _wait(self) -> None:
        pid, status = os.waitpid(-1, 0)
        mutant = self._running.pop(pid)
        if status == SURVIVED:
            self.survivors.append(mutant)
            print(f"not noticed: {mutant}", flush=True)


def plant(mutant: Mutant) -> None:
    """Give the function of a mutant its code, wherever it is known already."""
    name = ".".join(mutant.path.with_suffix("").parts).removesuffix(".__init__")
    found: object = importlib.import_module(name)
    for part in mutant.function.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    assert isinstance(found, types.FunctionType)
    found.__code__ = mutant.code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help=f"modules of {PACKAGE}, without .py; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--sample", type=int, default=1, metavar="N", help="only each N-th mutant")
    parser.add_argument("--quick", action="store_true", help="without the random histories, so less is noticed")
    options = parser.parse_args()
    os.chdir(ROOT)
    paths = [Path(PACKAGE, f"{name}.py") for name in options.modules] or [
        path for path in sorted(Path(PACKAGE).glob("*.py")) if path.stem not in NOT_MUTATED
    ]
    mutants = [mutant for path in paths for mutant in find_mutants(path)][:: options.sample]
    runner = Runner(mutants, options.jobs)
    files = [str(path) for pattern in TESTS for path in sorted(Path("tests/core").glob(pattern))]
    arguments = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "faulthandler_timeout=0",
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
