"""How each library runs a graph on two worker processes, as its documentation shows.

A driver is a context manager: it gets the works to come and gives a function that runs one of them and returns the
results of its outputs. Its pool stays for all of them.
"""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

from benchmarks.speed.works import WORKERS, Work

__all__ = [
    "Driver",
    "Run",
    "open_dask",
    "open_dbos",
    "open_executorlib",
    "open_fuseline",
    "open_fuseline_durable",
    "open_joblib",
    "open_loky",
    "open_mpire",
    "open_pebble",
    "open_ray",
    "open_stdlib",
    "prepare_fuseline",
    "workflow_of",
]

Run = Callable[[Work], Sequence[Any]]
Driver = Callable[[Sequence[Work]], AbstractContextManager[Run]]
Submit = Callable[..., Any]  #: ``submit(function, *arguments)`` returns a future


# -- fuseline ---------------------------------------------------------------------------------------------------------


@contextmanager
def open_fuseline(works: Sequence[Work]) -> Iterator[Run]:
    from fuseline import MemoryBroker

    with _engine(works, MemoryBroker()) as run:
        yield run


@contextmanager
def open_fuseline_durable(works: Sequence[Work]) -> Iterator[Run]:
    from fuseline import LocalBroker

    with (
        tempfile.TemporaryDirectory(prefix="speed-", dir=".") as folder,
        LocalBroker(f"{folder}/runs.db") as broker,
        _engine(works, broker) as run,
    ):
        yield run


@contextmanager
def _engine(works: Sequence[Work], broker: Any) -> Iterator[Run]:
    from fuseline import ProcessEngine

    workflows = {work.name: workflow_of(work) for work in works}
    schemas = {name: workflow.to_schema() for name, workflow in workflows.items()}
    with ProcessEngine(broker, workflows.values(), processes=WORKERS) as engine:

        def run(work: Work) -> Sequence[Any]:
            runs = broker.dispatch_many(schemas[work.name], [{}] * work.copies)
            engine.work()
            results = [broker.result(instance_id) for instance_id in runs]
            return results if len(work.outputs) == 1 else [value for values in results for value in values]

        yield run


def prepare_fuseline(work: Work) -> None:
    """Make what a graph needs before it is dispatched: the workflow, its schema, an engine, what children get of it."""
    from fuseline import MemoryBroker, ProcessEngine

    workflow = workflow_of(work)
    workflow.to_schema()
    with ProcessEngine(MemoryBroker(), [workflow], processes=WORKERS):
        pass  # children start with the first assignments


def workflow_of(work: Work) -> Any:
    """Return the work as a workflow."""
    from benchmarks.speed.steps import Call
    from fuseline import Workflow

    steps = [Call(task.function, task.arguments) for task in work.tasks]
    for step, task in zip(steps, work.tasks, strict=True):
        for need in task.needs:
            steps[need] >> step
    return Workflow(outputs=[steps[place] for place in work.outputs], name=work.name)


# -- libraries with futures -------------------------------------------------------------------------------------------


def drive_futures(submit: Submit, work: Work) -> Sequence[Any]:
    """Submit what is ready, and what becomes ready as futures are done: callbacks put them into a queue."""
    work = work.expanded()
    sorter = TopologicalSorter({place: task.needs for place, task in enumerate(work.tasks)})
    sorter.prepare()
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    left = [0] * len(work.tasks)  # how many tasks need a result that is there
    for task in work.tasks:
        for need in task.needs:
            left[need] += 1
    for place in work.outputs:
        left[place] += 1
    results: dict[int, Any] = {}
    while sorter.is_active():
        for place in sorter.get_ready():
            task = work.tasks[place]
            future = submit(task.function, *task.arguments, *(results[need] for need in task.needs))
            future.add_done_callback(partial(_put, done, place))
            for need in task.needs:
                left[need] -= 1
                if not left[need]:
                    del results[need]
        place, future = done.get()
        results[place] = future.result()
        sorter.done(place)
    return [results[place] for place in work.outputs]


def _put(done: queue.SimpleQueue[tuple[int, Any]], place: int, future: Any) -> None:
    done.put((place, future))


@contextmanager
def open_stdlib(works: Sequence[Work]) -> Iterator[Run]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as executor:
        yield partial(drive_futures, executor.submit)


@contextmanager
def open_loky(works: Sequence[Work]) -> Iterator[Run]:
    from loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=WORKERS)
    yield partial(drive_futures, executor.submit)
    executor.shutdown()


@contextmanager
def open_pebble(works: Sequence[Work]) -> Iterator[Run]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=WORKERS) as pool:
        yield partial(drive_futures, lambda function, *arguments: pool.schedule(function, args=arguments))


@contextmanager
def open_executorlib(works: Sequence[Work]) -> Iterator[Run]:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=WORKERS, block_allocation=True) as executor:

        def run(work: Work) -> Sequence[Any]:
            work = work.expanded()
            futures: list[Any] = []
            for task in work.tasks:  # it resolves the futures among the arguments by itself
                futures.append(executor.submit(task.function, *task.arguments, *(futures[n] for n in task.needs)))
            return [futures[place].result() for place in work.outputs]

        yield run


# -- libraries that map -----------------------------------------------------------------------------------------------


@contextmanager
def open_joblib(works: Sequence[Work]) -> Iterator[Run]:
    from joblib import Parallel, delayed

    with Parallel(n_jobs=WORKERS) as parallel:

        def run(work: Work) -> Sequence[Any]:
            return list(parallel(delayed(task.function)(*task.arguments) for task in work.tasks))

        yield run


@contextmanager
def open_mpire(works: Sequence[Work]) -> Iterator[Run]:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=WORKERS, keep_alive=True) as pool:

        def run(work: Work) -> Sequence[Any]:
            [function] = {task.function for task in work.tasks}
            return pool.map(function, [task.arguments for task in work.tasks])  # type: ignore[no-any-return]

        yield run


# -- schedulers -------------------------------------------------------------------------------------------------------


@contextmanager
def open_dask(works: Sequence[Work]) -> Iterator[Run]:
    from dask import delayed
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def run(work: Work) -> Sequence[Any]:
            work = work.expanded()
            nodes: list[Any] = []
            for task in work.tasks:
                call = delayed(task.function, pure=False)
                nodes.append(call(*task.arguments, *(nodes[need] for need in task.needs)))
            return client.gather(client.compute([nodes[place] for place in work.outputs]))  # type: ignore[no-any-return]

        yield run


@contextmanager
def open_ray(works: Sequence[Work]) -> Iterator[Run]:
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:

        def run(work: Work) -> Sequence[Any]:
            work = work.expanded()
            remotes = {task.function: ray.remote(task.function) for task in work.tasks}
            refs: list[Any] = []
            for task in work.tasks:
                refs.append(remotes[task.function].remote(*task.arguments, *(refs[need] for need in task.needs)))
            return ray.get([refs[place] for place in work.outputs])  # type: ignore[no-any-return]

        yield run
    finally:
        ray.shutdown()


@contextmanager
def open_dbos(works: Sequence[Work]) -> Iterator[Run]:
    """Run the tasks as durable steps of one durable workflow: in threads, for it has no processes."""
    from dbos import DBOS

    with tempfile.TemporaryDirectory(prefix="speed-", dir=".") as folder:
        DBOS(config={"name": "speed", "system_database_url": f"sqlite:///{folder}/dbos.sqlite"})
        by_name = {work.name: work for work in works}
        steps = {task.function: DBOS.step()(task.function) for work in works for task in work.tasks}

        @DBOS.workflow()
        def flow(name: str) -> list[Any]:
            work = by_name[name]
            results: list[Any] = []
            for task in work.tasks:
                results.append(steps[task.function](*task.arguments, *(results[need] for need in task.needs)))
            return [results[place] for place in work.outputs]

        DBOS.launch()
        try:
            yield lambda work: flow(work.name)
        finally:
            DBOS.destroy()
