"""Which libraries there are, and what of the work each of them has a way for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from benchmarks.speed import drivers
from benchmarks.speed.drivers import Driver
from benchmarks.speed.works import Kind

__all__ = ["LIBRARIES", "Library"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    name: str  #: as in ``--only``
    title: str
    driver: Driver
    distribution: str | None = None  #: None: comes with Python
    runs_graphs: bool = True  #: whether its tasks may need results of others, or a loop around it can see to that
    is_durable: bool = False  #: whether what has finished outlives the machine

    def version(self) -> str | None:
        """Return its version, the empty string if it has none of its own, None if it is not installed."""
        if self.distribution is None:
            return ""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def does(self, kind: Kind) -> bool:
        """Return whether it has a way to do this kind of work."""
        return self.is_durable == kind.is_durable and (self.runs_graphs or kind.is_flat)


LIBRARIES = {
    library.name: library
    for library in (
        Library(name="fuseline", title="fuseline", driver=drivers.open_fuseline, distribution="fuseline"),
        Library(name="stdlib", title="`concurrent.futures`", driver=drivers.open_stdlib),
        Library(name="loky", title="loky", driver=drivers.open_loky, distribution="loky"),
        Library(name="pebble", title="pebble", driver=drivers.open_pebble, distribution="pebble"),
        Library(name="executorlib", title="executorlib", driver=drivers.open_executorlib, distribution="executorlib"),
        Library(name="joblib", title="joblib", driver=drivers.open_joblib, distribution="joblib", runs_graphs=False),
        Library(name="mpire", title="mpire", driver=drivers.open_mpire, distribution="mpire", runs_graphs=False),
        Library(name="ray", title="Ray", driver=drivers.open_ray, distribution="ray"),
        Library(name="dask", title="Dask", driver=drivers.open_dask, distribution="distributed"),
        Library(
            name="fuseline_durable",
            title="fuseline",
            driver=drivers.open_fuseline_durable,
            distribution="fuseline",
            is_durable=True,
        ),
        Library(name="dbos", title="DBOS", driver=drivers.open_dbos, distribution="dbos", is_durable=True),
    )
}
