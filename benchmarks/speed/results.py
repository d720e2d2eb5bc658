"""What was measured: medians, their spread, and ratios to the best of the others."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Self

from benchmarks.speed.works import MAPS, OURS

__all__ = ["Results"]


@dataclass(slots=True, kw_only=True)
class Results:
    """Numbers by work and library: seconds, or bytes."""

    sizes: dict[str, int] = field(default_factory=dict)
    measured: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    problems: dict[tuple[str, str], str] = field(default_factory=dict)
    python: str = field(default_factory=platform.python_version)
    machine: str = field(default_factory=lambda: f"{_processor()}, {_memory()}, {platform.platform()}")

    def add(self, library: str, work: str, size: int, measured: float | str) -> None:
        self.sizes[work] = size
        if isinstance(measured, str):
            self.problems[work, library] = measured
        else:
            self.measured[work, library].append(measured)

    def problem(self, library: str, work: str) -> str | None:
        """Return why a library could not do a work, in a line."""
        return self.problems.get((work, library))

    def median(self, work: str, library: str) -> float | None:
        numbers = self.measured.get((work, library))
        return median(numbers) if numbers else None

    def spread(self, work: str, library: str) -> tuple[float, float]:
        """Return the least and the most."""
        numbers = self.measured[work, library]
        return min(numbers), max(numbers)

    def best_peer(self, work: str) -> tuple[str, float] | None:
        """Return which of the others that run graphs was the fastest, and its median."""
        others = {
            library: value
            for of_work, library in self.measured
            if of_work == work and library not in OURS + MAPS and (value := self.median(work, library)) is not None
        }
        return min(others.items(), key=lambda item: item[1]) if others else None

    def ours(self, work: str) -> float | None:
        """Return our median."""
        return next((value for library in OURS if (value := self.median(work, library)) is not None), None)

    def ratio(self, work: str) -> float | None:
        """Return our median, as a share of the best peer's."""
        ours, peer = self.ours(work), self.best_peer(work)
        return ours / peer[1] if ours is not None and peer is not None else None

    def as_plain_data(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "python": self.python,
            "machine": self.machine,
            "sizes": self.sizes,
            "measured": [
                {"work": work, "library": library, "numbers": numbers}
                for (work, library), numbers in self.measured.items()
            ],
            "problems": [
                {"work": work, "library": library, "problem": problem}
                for (work, library), problem in self.problems.items()
            ],
        }

    @classmethod
    def from_plain_data(cls, data: dict[str, Any]) -> Self:
        """Return what ``as_plain_data`` made ``data`` of."""
        results = cls(sizes=data["sizes"], python=data["python"], machine=data["machine"])
        for each in data["measured"]:
            results.measured[each["work"], each["library"]] = each["numbers"]
        for each in data["problems"]:
            results.problems[each["work"], each["library"]] = each["problem"]
        return results


def _processor() -> str:
    """Return how many processors there are, and their name."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _memory() -> str:
    """Return how much memory there is."""
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.0f} GiB of memory"
