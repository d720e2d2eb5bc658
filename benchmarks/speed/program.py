"""The program of one measurement, which writes down what it has measured.

``python -m benchmarks.speed.program LIBRARY KIND SIZE``
"""

from __future__ import annotations

import json
import os
import sys

from benchmarks.speed.libraries import LIBRARIES
from benchmarks.speed.measures import MEASURES
from benchmarks.speed.works import WORKS

__all__ = ["MEASUREMENT", "read_measured"]

MEASUREMENT = "measurement.json"


def main(library: str, name: str, size: str) -> None:
    kind = WORKS[name]
    measured = MEASURES[kind.measure](LIBRARIES[library], kind, int(size))
    with open(f"{MEASUREMENT}.new", "w") as file:
        json.dump(measured, file)
    os.rename(f"{MEASUREMENT}.new", MEASUREMENT)


def read_measured(folder: str) -> float | None:
    """Return what a program has measured in its folder; None if it has not."""
    try:
        with open(os.path.join(folder, MEASUREMENT)) as file:
            return float(json.load(file))
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
