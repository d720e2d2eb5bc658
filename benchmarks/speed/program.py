"""The program of one measurement: warms up, takes the time, checks the results, writes down what it was.

``python -m benchmarks.speed.program LIBRARY KIND SIZE``
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.speed.libraries import LIBRARIES
from benchmarks.speed.works import WORKS, Work

__all__ = ["MEASUREMENT", "read_seconds"]

MEASUREMENT = "measurement.json"


def main(library: str, name: str, size: str) -> None:
    kind = WORKS[name]
    work = kind.make(int(size))
    warm_up = dataclasses.replace(kind.make(kind.warm_size), name="warm-up")
    with LIBRARIES[library].driver([warm_up, work]) as run:
        check(warm_up, run(warm_up))
        start = time.perf_counter()
        results = run(work)
        seconds = time.perf_counter() - start
        check(work, results)
        with open(f"{MEASUREMENT}.new", "w") as file:
            json.dump(seconds, file)
        os.rename(f"{MEASUREMENT}.new", MEASUREMENT)


def check(work: Work, results: Iterable[Any]) -> None:
    """Make sure that the work was done.

    Raises:
        AssertionError: something else came out.
    """
    expected = [*work.expected] * work.copies
    if list(results) != expected:
        raise AssertionError(f"{work.name}: {results!r:.500} came out, not {expected!r:.500}")


def read_seconds(folder: str) -> float | None:
    """Return what a program has measured in its folder; None if it has not."""
    try:
        with open(os.path.join(folder, MEASUREMENT)) as file:
            return float(json.load(file))
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
