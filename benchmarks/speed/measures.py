"""What is measured: each takes a library, a kind of work and its size, in a program of its own, and returns a number.

Most are seconds. What must come out is checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.speed.libraries import Library
from benchmarks.speed.works import Kind, Work

__all__ = ["MEASURES"]

#: A pool may start its second process while the first one does all of the work.
_WARM_UPS = 3
#: Seconds after each of them, in which a process starts.
_PAUSE = 0.3


def time_of_work(library: Library, kind: Kind, size: int) -> float:
    """Return the seconds that a work takes, in a pool that has done another one before."""
    return _times(library, kind, size, 1)[-1]


def time_of_work_again(library: Library, kind: Kind, size: int) -> float:
    """Return the seconds that a work takes when it was done before."""
    return _times(library, kind, size, 2)[-1]


def time_of_whole(library: Library, kind: Kind, size: int) -> float:
    """Return the seconds that a work takes in such a pool, and what is made for it before."""
    return _times(library, kind, size, 1, prepare=library.prepare or (lambda work: None))[-1]


def _times(
    library: Library, kind: Kind, size: int, count: int, prepare: Callable[[Work], None] = lambda work: None
) -> list[float]:
    work = kind.make(size)
    warm_up = dataclasses.replace(kind.make(kind.warm_size), name="warm-up")
    times = []
    with library.driver([warm_up, work]) as run:
        for _ in range(_WARM_UPS):
            prepare(warm_up)
            _check(warm_up, run(warm_up))
            time.sleep(_PAUSE)
        for _ in range(count):
            start = time.perf_counter()
            prepare(work)
            results = run(work)
            times.append(time.perf_counter() - start)
            _check(work, results)
    return times


def _check(work: Work, results: Iterable[Any]) -> None:
    """Make sure that the work was done.

    Raises:
        AssertionError: something else came out.
    """
    expected = [*work.expected] * work.copies
    if list(results) != expected:
        raise AssertionError(f"{work.name}: {results!r:.500} came out, not {expected!r:.500}")


def time_of_import(library: Library, kind: Kind, size: int) -> float:
    """Return the seconds that the import of a library takes."""
    start = time.perf_counter()
    exec(library.imports, {})
    return time.perf_counter() - start


def time_to_first_result(library: Library, kind: Kind, size: int) -> float:
    """Return the seconds from before the import of a library to the first result."""
    work = kind.make(size)
    start = time.perf_counter()
    with library.driver([work]) as run:
        results = run(work)
        seconds = time.perf_counter() - start
        _check(work, results)
    return seconds


def time_to_timeout(library: Library, kind: Kind, size: int) -> float:
    """Return the seconds from the deadline of a step that hangs to its error."""
    from benchmarks.speed.kills import TIMEOUT, hang_in

    started, told = hang_in(library.name)
    return told - started - TIMEOUT


def time_to_replacement(library: Library, kind: Kind, size: int) -> float:
    """Return the seconds from the death of the only child to the start of the next step."""
    from benchmarks.speed.kills import die_in

    died, started = die_in(library.name)
    return started - died


def memory_of_waiting(library: Library, kind: Kind, size: int) -> float:
    """Return the resident bytes that a broker takes for each step that waits in it, the schema included.

    Of a ``LocalBroker`` it is the memory of its process.
    """
    import psutil

    from benchmarks.speed.drivers import workflow_of
    from fuseline import LocalBroker, MemoryBroker

    work = kind.make(size)
    workflow = workflow_of(work)
    with contextlib.ExitStack() as stack:
        broker: LocalBroker | MemoryBroker = MemoryBroker()
        process = psutil.Process()
        if library.is_durable:
            broker = stack.enter_context(LocalBroker("runs.db"))
            process = psutil.Process(broker.pid)
        gc.collect()
        before = int(process.memory_info().rss)
        runs = broker.dispatch_many(workflow.to_schema(), [{}] * work.copies)
        gc.collect()
        after = int(process.memory_info().rss)
    assert len(runs) == work.copies
    return (after - before) / size


MEASURES: Mapping[str, Callable[[Library, Kind, int], float]] = {
    "work": time_of_work,
    "again": time_of_work_again,
    "whole": time_of_whole,
    "import": time_of_import,
    "first_result": time_to_first_result,
    "timeout": time_to_timeout,
    "replacement": time_to_replacement,
    "memory": memory_of_waiting,
}
