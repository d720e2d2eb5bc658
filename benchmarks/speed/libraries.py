"""Which libraries there are, and what of the work each of them has a way for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from benchmarks.speed import drivers
from benchmarks.speed.drivers import Driver
from benchmarks.speed.works import MAPS, Kind, Work

__all__ = ["LIBRARIES", "Library"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    name: str  #: as in ``--only``
    title: str
    driver: Driver
    imports: str  #: the statement by which a user imports what the driver needs
    distribution: str | None = None  #: None: comes with Python
    runs_graphs: bool = True  #: whether its tasks may need results of others, or a loop around it can see to that
    is_durable: bool = False  #: whether what has finished outlives the machine
    prepare: Callable[[Work], None] | None = None  #: makes all that a user makes for a graph before its dispatch

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
        if kind.libraries is not None:
            return self.name in kind.libraries
        if kind.measure == "import":
            return self.name != "fuseline_durable"  # which is the same library
        return self.is_durable == kind.is_durable and (self.runs_graphs or kind.is_flat)


def _library(name: str, driver: Driver, imports: str, *, title: str = "", distribution: str = "") -> Library:
    """Return a library whose parts have its name unless told otherwise."""
    return Library(
        name=name,
        title=title or name,
        driver=driver,
        imports=imports,
        distribution=distribution or name,
        runs_graphs=name not in MAPS,
        is_durable=name in ("fuseline_durable", "dbos"),
        prepare=drivers.prepare_fuseline if name == "fuseline" else None,
    )


_OURS = "from fuseline import MemoryBroker, ProcessEngine, Step, Workflow"

LIBRARIES = {
    library.name: library
    for library in (
        _library("fuseline", drivers.open_fuseline, _OURS),
        Library(
            name="stdlib",
            title="`concurrent.futures`",
            driver=drivers.open_stdlib,
            imports="from concurrent.futures import ProcessPoolExecutor",
        ),
        _library("loky", drivers.open_loky, "from loky import get_reusable_executor"),
        _library("pebble", drivers.open_pebble, "from pebble import ProcessPool"),
        _library("executorlib", drivers.open_executorlib, "from executorlib import SingleNodeExecutor"),
        _library("joblib", drivers.open_joblib, "from joblib import Parallel, delayed"),
        _library("mpire", drivers.open_mpire, "from mpire import WorkerPool"),
        _library("ray", drivers.open_ray, "import ray", title="Ray"),
        _library(
            "dask",
            drivers.open_dask,
            "from dask.distributed import Client, LocalCluster",
            title="Dask",
            distribution="distributed",
        ),
        _library("fuseline_durable", drivers.open_fuseline_durable, _OURS, title="fuseline", distribution="fuseline"),
        _library("dbos", drivers.open_dbos, "from dbos import DBOS", title="DBOS"),
    )
}
