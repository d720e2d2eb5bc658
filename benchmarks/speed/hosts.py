"""Starts a fresh program for each measurement, and takes down what it has measured."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence

from benchmarks.programs import Program
from benchmarks.speed.libraries import Library
from benchmarks.speed.program import read_measured
from benchmarks.speed.results import Results
from benchmarks.speed.works import Kind

__all__ = ["measure", "measure_all"]


def measure(library: Library, kind: Kind, size: int, bound: float) -> float | str:
    """Return what was measured, or why nothing was, in a line."""
    with Program("benchmarks.speed.program", library.name, kind.name, str(size)) as program:
        try:
            program.process.wait(bound)
        except subprocess.TimeoutExpired:
            pass  # it may have measured, and hang at its end
        measured = read_measured(program.folder)
        if measured is not None:
            return measured
        if program.process.poll() is None:
            return f"not done after {bound:g} s"
        last = program.output().strip().splitlines()
        return f"exit code {program.process.returncode}: {last[-1] if last else ''}"


def measure_all(
    results: Results, libraries: Sequence[Library], kinds: Iterable[Kind], *, repeat: int, bound: float,
    sizes: Callable[[Kind], int], tell: Callable[[str], object],
) -> None:  # fmt: skip
    """Measure each work ``repeat`` times its ``turns``, library after library: a slow hour is one for all of them."""
    for kind in kinds:
        able = [library for library in libraries if library.does(kind)]
        turns = repeat * kind.turns
        for turn in range(turns):
            for library in able[turn % len(able) :] + able[: turn % len(able)]:
                if results.problem(library.name, kind.name) is None:
                    tell(f"{kind.name}, {library.name}: {turn + 1} of {turns}")
                    results.add(library.name, kind.name, sizes(kind), measure(library, kind, sizes(kind), bound))
