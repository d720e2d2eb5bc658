"""What was measured: medians, their spread, and ratios to the best of the others."""

from __future__ import annotations

import platform
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Any

__all__ = ["OURS", "Results"]

#: Libraries that are this one.
OURS = ("fuseline", "fuseline_durable")


@dataclass(slots=True, kw_only=True)
class Results:
    """Seconds by work and library."""

    sizes: dict[str, int] = field(default_factory=dict)
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    problems: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, library: str, work: str, size: int, measured: float | str) -> None:
        self.sizes[work] = size
        if isinstance(measured, str):
            self.problems[work, library] = measured
        else:
            self.seconds[work, library].append(measured)

    def problem(self, library: str, work: str) -> str | None:
        """Return why a library could not do a work, in a line."""
        return self.problems.get((work, library))

    def median(self, work: str, library: str) -> float | None:
        seconds = self.seconds.get((work, library))
        return median(seconds) if seconds else None

    def spread(self, work: str, library: str) -> tuple[float, float]:
        """Return the least and the most."""
        seconds = self.seconds[work, library]
        return min(seconds), max(seconds)

    def best_peer(self, work: str) -> tuple[str, float] | None:
        """Return which of the others was the fastest, and its median."""
        others = {
            library: value
            for of_work, library in self.seconds
            if of_work == work and library not in OURS and (value := self.median(work, library)) is not None
        }
        return min(others.items(), key=lambda item: item[1]) if others else None

    def ratio(self, work: str) -> float | None:
        """Return our median, as a share of the best peer's."""
        ours = [value for library in OURS if (value := self.median(work, library)) is not None]
        peer = self.best_peer(work)
        return ours[0] / peer[1] if ours and peer else None

    def as_plain_data(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": _processor(),
            "sizes": self.sizes,
            "measured": [
                {"work": work, "library": library, "seconds": seconds}
                for (work, library), seconds in self.seconds.items()
            ],
            "problems": [
                {"work": work, "library": library, "problem": problem}
                for (work, library), problem in self.problems.items()
            ],
        }


def _processor() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{len(names)} x {names[0]}" if names else platform.processor()
