"""How each library runs a batch of calls on two workers, driven as its documentation shows.

A driver notes how each call of its batch has ended. Once it knows how the hostile one has, it lets the call go on that
waits for that: so one sibling is certainly running, and others are waiting, when the worst happens.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

__all__ = ["LIBRARIES", "WORKERS", "Batch", "Call", "Driver", "Library", "Outcome", "find_driver"]

WORKERS = 2

Call = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call has ended for who asks for its result."""

    value: int | str | None = None  #: a number or a text as it is, anything else as it shows itself
    error: str | None = None  #: the name of the exception's class
    message: str = ""
    is_ordinary: bool = True  #: False for an exception that ``except Exception`` lets through

    @classmethod
    def of_error(cls, error: BaseException) -> Outcome:
        return cls(error=type(error).__name__, message=str(error)[:300], is_ordinary=isinstance(error, Exception))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    calls: Sequence[Call]
    hostile: int  #: which of the calls is the hostile one
    let_go: Callable[[], object]
    note: Callable[[Sequence[Outcome]], object]  #: called before the library is closed, which may never return


Driver = Callable[[Batch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    name: str  #: as in ``--only``
    title: str
    driver: str  #: ``module:function``; found only in the process that needs it
    distribution: str | None = None  #: None: comes with Python

    def version(self) -> str | None:
        """Return its version, the empty string if it has none of its own, None if it is not installed."""
        if self.distribution is None:
            return ""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


def find_driver(name: str) -> Driver:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]


def outcome_of(get: Callable[[], Any]) -> Outcome:
    try:
        value = get()
    except BaseException as error:
        return Outcome.of_error(error)
    return Outcome(value=value if isinstance(value, int | str) else repr(value))


def settle(batch: Batch, getters: Sequence[Callable[[], Any]]) -> None:
    """Note the outcomes of calls that are under way; each getter blocks until its call has one."""
    hostile = outcome_of(getters[batch.hostile])
    batch.let_go()
    batch.note([hostile if i == batch.hostile else outcome_of(get) for i, get in enumerate(getters)])


# -- drivers ----------------------------------------------------------------------------------------------------------


def run_fuseline(batch: Batch) -> None:
    from fuseline import MemoryBroker, ProcessEngine, Step, Workflow, current_run
    from fuseline.policies import WorkflowPolicy

    class Carry(Step):
        def run_step(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
            return function(*arguments)

    class LetGo(WorkflowPolicy):
        def on_workflow_finished(self, workflow: Workflow, state: Any) -> None:
            run = current_run()
            if run is not None and run.instance_id == runs[batch.hostile]:
                batch.let_go()

    workflow = Workflow(outputs=[Carry()], executor="loky", name="torture")
    inputs = [{"function": function, "arguments": arguments} for function, arguments in batch.calls]
    broker = MemoryBroker()
    runs = broker.dispatch_many(workflow.to_schema(), inputs)
    engine = ProcessEngine(broker, [workflow], processes=WORKERS)
    engine.observe(LetGo())
    engine.work()
    batch.note([outcome_of(lambda run=run: broker.result(run)) for run in runs])  # type: ignore[misc]


def run_stdlib(batch: Batch) -> None:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as executor:
        settle(batch, [executor.submit(call, *arguments).result for call, arguments in batch.calls])


def run_loky(batch: Batch) -> None:
    from loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=WORKERS)
    settle(batch, [executor.submit(call, *arguments).result for call, arguments in batch.calls])


def run_pebble(batch: Batch) -> None:
    from pebble import ProcessPool

    with ProcessPool(max_workers=WORKERS) as pool:
        settle(batch, [pool.schedule(call, args=arguments).result for call, arguments in batch.calls])


def run_mpire(batch: Batch) -> None:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=WORKERS) as pool:
        settle(batch, [pool.apply_async(call, args=arguments).get for call, arguments in batch.calls])


def run_dask(batch: Batch) -> None:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        # pure=False: each call is one of its own, also where function and arguments are the same
        settle(batch, [client.submit(call, *args, pure=False).result for call, args in batch.calls])


def run_ray(batch: Batch) -> None:
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        refs = [ray.remote(call).remote(*arguments) for call, arguments in batch.calls]
        settle(batch, [lambda ref=ref: ray.get(ref) for ref in refs])  # type: ignore[misc]
    finally:
        ray.shutdown()


LIBRARIES = {
    library.name: library
    for library in (
        Library(name="fuseline", title="fuseline", driver=f"{__name__}:run_fuseline", distribution="fuseline"),
        Library(name="stdlib", title="`concurrent.futures`", driver=f"{__name__}:run_stdlib"),
        Library(name="loky", title="loky", driver=f"{__name__}:run_loky", distribution="loky"),
        Library(name="pebble", title="pebble", driver=f"{__name__}:run_pebble", distribution="pebble"),
        Library(name="mpire", title="mpire", driver=f"{__name__}:run_mpire", distribution="mpire"),
        Library(name="dask", title="Dask", driver=f"{__name__}:run_dask", distribution="distributed"),
        Library(name="ray", title="Ray", driver=f"{__name__}:run_ray", distribution="ray"),
    )
}
