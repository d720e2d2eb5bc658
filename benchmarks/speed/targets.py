"""What is aimed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.speed.results import Results

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound for a number, or for its share of another one.

    Attributes:
        beside: the work and library that it is a share of, for each step.
    """

    title: str
    work: str
    bound: float  #: in seconds, bytes, or the share
    library: str = "fuseline"
    beside: tuple[str, str] | None = None

    @property
    def is_ratio(self) -> bool:
        return self.beside is not None

    def value(self, results: Results) -> float | None:
        """Return what was reached; None if that was not measured."""
        ours, unit = results.median(self.work, self.library), self._unit(results)
        return None if ours is None or unit is None else ours / unit

    def aim(self, results: Results) -> float | None:
        """Return what the work may take, in seconds or bytes; None if that was not measured which it depends on."""
        unit = self._unit(results)
        return None if unit is None else self.bound * unit

    def _unit(self, results: Results) -> float | None:
        """Return what the bound is a share of, for as many steps as the work has."""
        if self.beside is None:
            return 1.0
        work, library = self.beside
        if self.work not in results.sizes or (beside := results.median(work, library)) is None:
            return None
        return beside / results.sizes[work] * results.sizes[self.work]

    def is_met(self, value: float) -> bool:
        return value <= self.bound


TARGETS: Sequence[Target] = (
    *(
        Target(title=f"`{work}`: at most {told} of pebble", work=work, bound=share, beside=(work, "pebble"))
        for work, told, share in (("flat", "1/5", 0.2), ("layers", "1/5", 0.2), ("chain", "1/4", 0.25))
    ),
    *(
        Target(
            title=f"`{work}` once more: at most {told} of pebble",
            work=f"{work}-again",
            bound=share,
            beside=(f"{work}-again", "pebble"),
        )
        for work, told, share in (("flat", "1/5", 0.2), ("layers", "1/5", 0.2), ("chain", "1/4", 0.25))
    ),
    Target(title="`array`: at most Ray", work="array", bound=1.0, beside=("array", "ray")),
    Target(title="`spins`: at least 97 % of the ideal", work="spins", bound=64 * 0.05 / 2 / 0.97),
    Target(
        title="`durable`: at most what pebble takes for `flat`, which is not durable",
        work="durable",
        library="fuseline_durable",
        bound=1.0,
        beside=("flat", "pebble"),
    ),
    Target(title="import: at most 60 ms", work="import", bound=0.060),
    Target(title="first result of a cold pool: at most 250 ms", work="cold", bound=0.250),
    Target(title="a timeout is told at most 100 ms after the deadline", work="timeout", bound=0.100),
    Target(title="a child is replaced at most 150 ms after a kill", work="replaced", bound=0.150),
    *(
        Target(
            title=f"a step of 1,000,000 ({told}): at most 1.3 x one of 10,000",
            work=f"{name}-1000k",
            bound=1.3,
            beside=(f"{name}-10k", "fuseline"),
        )
        for name, told in (("dag", "one graph"), ("runs", "200,000 runs of five"))
    ),
    *(
        Target(
            title=f"memory of a waiting step ({told}, `{broker}`): at most 1 kB",
            work=f"memory-{name}{suffix}",
            library=library,
            bound=1000,
        )
        for broker, library, suffix in (
            ("MemoryBroker", "fuseline", ""),
            ("LocalBroker", "fuseline_durable", "-durable"),
        )
        for name, told in (("dag", "one graph"), ("runs", "runs of five"))
    ),
)
