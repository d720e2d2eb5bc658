"""What ``fuseline demo`` prints: plain text, at most 79 columns wide."""

from __future__ import annotations

import platform
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuseline.cli.hostile import BadRun
from fuseline.cli.text import plural
from fuseline.messages import RunInfo

__all__ = ["Inputs", "Result", "Way", "show_bad_runs", "show_good_runs", "show_modules", "show_plan", "show_times"]

Inputs = dict[str, str]  #: of a run: its "path" and "module"
Result = dict[str, Any]  #: of a run: what the step Summarise returns

_WIDTH = 79
_INVALID = 9  #: names of files that are no valid Python, at most


class Way:
    """One of the ways to measure all the files."""

    def __init__(self) -> None:
        self.results: list[Result] = []  #: in the order in which they were measured
        self.failures: list[str] = []  #: of files that have no result: why
        self.seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time until the block ends as needed by this way."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


def show_plan(root: Path, sizes: Sequence[int], processes: int, bad_steps: int) -> None:
    """Print what is going to happen."""
    among = f", and {plural(bad_steps, 'bad step')} among them" if bad_steps else ""
    print(f"\nPython source below {root}")
    print(f"  {plural(len(sizes), 'file')}, {sum(sizes) / 1e6:,.1f} MB: {5 * len(sizes):,} steps{among}")
    print(f"  on {_processes(processes)} of Python {platform.python_version()}, and in a plain loop, by turns")
    sys.stdout.flush()


def show_modules(results: Sequence[Result]) -> None:
    """Print the most complex modules, and what all of them add up to."""
    print(f"\n  {'module':<31}{'lines':>8}{'functions':>11}{'complexity':>12}{'longest':>9}{'ratio':>6}")
    print("  " + "-" * 77)
    for each in sorted(results, key=lambda result: -result["complexity"])[:10]:
        module = each["module"] if len(each["module"]) <= 31 else "..." + each["module"][-28:]
        print(
            f"  {module:<31}{each['lines']:>8,}{each['functions']:>11,}{each['complexity']:>12,}"
            f"{each['longest']:>9,}{each['ratio']:>6.1f}"
        )
    print("  " + "-" * 77)
    sums = (f"{sum(each[name] for each in results):,}" for name in ("lines", "functions", "complexity"))
    print("  {:<31}{:>8}{:>11}{:>12}".format(f"all {plural(len(results), 'file')}", *sums))
    print("  (complexity: McCabe's, summed over all functions; longest: function, in lines;")
    print("  ratio: of the source to what zlib makes of it)")
    invalid = [each["module"] for each in results if "problem" in each]
    if invalid:
        more = f" and {len(invalid) - _INVALID:,} more" if len(invalid) > _INVALID else ""
        print()
        _say(f"No valid Python, and named instead of failing: {', '.join(invalid[:_INVALID])}{more}.")


def show_bad_runs(runs: Sequence[tuple[BadRun, RunInfo]]) -> bool:
    """Print what the bad steps did and what became of them; return whether that is what has to."""
    as_expected = True
    for bad, info in runs:
        [step] = info.steps.values()
        kinds = [type(error) for error in bad.log.failures]
        is_contained = step.state is bad.expected and kinds == list(bad.errors)
        as_expected &= is_contained
        attempts = f"{step.attempts} attempt" + ("s" if step.attempts > 1 else "")
        verdict = "contained" if is_contained else f"NOT CONTAINED, {bad.expected} expected"
        print(f"\n  {step.name:<6} {bad.deed}")
        print(f"         {step.state} after {attempts}: {verdict}")
        for error in bad.log.failures:
            _say(f"{type(error).__name__}: {error}", indent=9)
    return as_expected


def show_good_runs(done: Way, count: int) -> bool:
    """Print whether all good runs succeeded, and return it."""
    print()
    if not done.failures:
        _say(f"All {plural(count, 'good run')} succeeded." if count != 1 else "The good run succeeded.")
        return True
    _say(f"{len(done.failures):,} of {plural(count, 'good run')} failed:")
    for reason in done.failures[:3]:
        _say(reason, indent=2)
    return False


def show_times(by_engine: Way, by_loop: Way, processes: int, bad_steps: int) -> bool:
    """Print how long both ways took; return whether they found the same."""
    print(f"\n  {'':<31}{'wall time':>11}{'files/s':>11}{'lines/s':>12}")
    for name, way in ((f"fuseline, {_processes(processes)}", by_engine), ("plain loop, the same functions", by_loop)):
        lines = sum(result["lines"] for result in way.results)
        print(f"  {name:<31}{way.seconds:>9.1f} s{len(way.results) / way.seconds:>11,.0f}{lines / way.seconds:>12,.0f}")
    is_same = by_engine.results == by_loop.results
    ratio = by_loop.seconds / by_engine.seconds
    verdict = f"fuseline was {ratio:.2f} times as fast as the plain loop."
    if ratio < 1:
        hang = ", nor for the one that Hang holds until it is killed" if bad_steps else ""
        verdict = (
            f"fuseline took {1 / ratio:.2f} times as long as the plain loop: so little work, or so few free cores, "
        )
        verdict += f"do not make up for starting processes{hang}."
    if bad_steps:
        verdict += " The loop was spared the bad steps: it would not have got past the first."
    print()
    _say(f"{verdict} {'Both found the same.' if is_same else 'THEY DID NOT FIND THE SAME.'}")
    return is_same


def _processes(count: int) -> str:
    return f"{count} process" + ("es" if count > 1 else "")


def _say(text: str, indent: int = 0) -> None:
    print(textwrap.fill(text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent and indent + 2)))
