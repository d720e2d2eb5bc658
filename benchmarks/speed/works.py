"""The kinds of work, as graphs that know nothing of any library."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.speed.functions import add, add_one, make_array, nothing, one, spin, sum_of

__all__ = ["MAPS", "OURS", "WORKERS", "WORKS", "Kind", "Task", "Unit", "Work"]

#: Libraries that are this one.
OURS = ("fuseline", "fuseline_durable")
#: Libraries that map a function over a list, and run no graphs.
MAPS = ("joblib", "mpire")
#: How a figure is told.
Unit = Literal["µs per step", "seconds", "ms", "share of the ideal", "bytes per step"]

WORKERS = 2

#: Bytes of an item of an array.
_FLOAT64 = 8


@dataclass(frozen=True, slots=True)
class Task:
    """A call ``function(*arguments, *results of needs)``."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    needs: tuple[int, ...] = ()  #: tasks, by their place; all of them come before this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A graph of tasks, or many copies of it side by side, and what must come out."""

    name: str
    copies: int = 1
    tasks: Sequence[Task]  #: of one copy
    outputs: Sequence[int]  #: tasks whose results are wanted
    expected: Sequence[Any]  #: results of ``outputs`` of each copy, in their order

    def expanded(self) -> Work:
        """Return the same as one graph."""
        count = len(self.tasks)
        tasks = [
            Task(task.function, task.arguments, tuple(need + place * count for need in task.needs))
            for place in range(self.copies)
            for task in self.tasks
        ]
        outputs = [output + place * count for place in range(self.copies) for output in self.outputs]
        return Work(name=self.name, tasks=tasks, outputs=outputs, expected=[*self.expected] * self.copies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of work in any size, and what of it is measured."""

    name: str
    title: str  #: may have ``{mib}`` in it, for its size in MiB
    make: Callable[[int], Work]
    size: int  #: the usual one, in steps unless ``make`` says otherwise
    quick_size: int | None = None  #: None: not among the quick ones
    measure: str = "work"  #: a name in ``measures``
    unit: Unit = "µs per step"
    libraries: Sequence[str] | None = None  #: those that are asked; None for all that can
    group: str = "work"  #: of kinds that are shown together
    warm_size: int = 100  #: of what comes first and is not measured
    is_flat: bool = False  #: whether no task needs another, so that it can be a map
    is_durable: bool = False  #: whether what has finished must outlive the machine
    ideal: Callable[[int], float] | None = None  #: seconds that the tasks take by themselves, on all workers
    needs: str | None = None  #: a module without which it cannot be
    turns: int = 1  #: how often it is measured where others are once: more where measurements differ much
    of: str = ""  #: the kind that this is another measure of

    @property
    def is_possible(self) -> bool:
        return self.needs is None or importlib.util.find_spec(self.needs) is not None

    def describe(self, size: int) -> str:
        """Return what it is in this size, and in what it is measured."""
        return f"{self.title.format(mib=size >> 20)}; {self.unit}"


def flat(size: int) -> Work:
    """Steps that need nothing and do nothing."""
    return Work(name="flat", tasks=[Task(nothing)] * size, outputs=range(size), expected=[None] * size)


def layers(size: int) -> Work:
    """Layers of a hundred steps, each of which needs two of the layer before."""
    width = min(100, size)
    tasks = [Task(one)] * width
    values = [1] * width
    for place in range(width, size):
        start = (place // width - 1) * width
        needs = (start + place % width, start + (place + 1) % width)
        tasks.append(Task(add, needs=needs))
        values.append(add(*(values[each] for each in needs)))
    outputs = range(size - width, size)
    return Work(name="layers", tasks=tasks, outputs=outputs, expected=[values[each] for each in outputs])


def chain(size: int) -> Work:
    """Steps each of which needs the one before."""
    tasks = [Task(one), *(Task(add_one, needs=(place,)) for place in range(size - 1))]
    return Work(name="chain", tasks=tasks, outputs=[size - 1], expected=[size])


def array(size: int) -> Work:
    """One step makes an array of so many bytes, eight read it."""
    items = size // _FLOAT64
    tasks = [Task(make_array, (items,)), *[Task(sum_of, needs=(0,))] * 8]
    return Work(name="array", tasks=tasks, outputs=range(1, 9), expected=[float(items)] * 8)


_STEPS_OF_A_RUN = 5


def runs(size: int) -> Work:
    """Many runs of a chain of five steps: so many steps in all."""
    one_run = chain(_STEPS_OF_A_RUN)
    copies = size // _STEPS_OF_A_RUN
    return Work(name="runs", copies=copies, tasks=one_run.tasks, outputs=one_run.outputs, expected=one_run.expected)


_SPIN = 0.05


def spins(size: int) -> Work:
    """Steps of 50 ms, in pure Python."""
    return Work(name="spins", tasks=[Task(spin, (_SPIN,))] * size, outputs=range(size), expected=[1] * size)


def _beside(name: str, measure: str, title: str) -> Kind:
    """Return another measure of a kind, in the libraries where it differs, and in pebble."""
    kind = next(kind for kind in _KINDS if kind.name == name)
    return dataclasses.replace(
        kind,
        name=f"{name}-{measure}",
        title=title.format(f"`{name}`"),
        measure=measure,
        quick_size=None,
        libraries=("fuseline", "pebble"),
        turns=3,
        of=name,
    )


_KINDS: Sequence[Kind] = (
    Kind(name="flat", title="independent no-op steps", make=flat, size=5_000, quick_size=2_000, is_flat=True),
    Kind(
        name="layers",
        title="layers of 100 steps, each needs two of the layer before",
        make=layers,
        size=5_000,
        quick_size=2_000,
    ),
    Kind(name="chain", title="steps each of which needs the one before", make=chain, size=500, quick_size=300),
    Kind(
        name="runs",
        title="runs of a workflow of five steps, each of which needs the one before",
        make=runs,
        size=5_000,
        quick_size=2_000,
    ),
    Kind(
        name="array",
        title="one step makes {mib} MiB, eight read it",
        unit="seconds",
        make=array,
        size=128 << 20,
        quick_size=32 << 20,
        warm_size=8 << 10,
        needs="numpy",
        turns=3,
    ),
    Kind(
        name="spins",
        title="steps of 50 ms in pure Python",
        unit="share of the ideal",
        make=spins,
        size=64,
        quick_size=16,
        warm_size=4,
        ideal=lambda size: size * _SPIN / WORKERS,
        is_flat=True,
    ),
    Kind(
        name="durable",
        title="no-op steps whose results survive a power cut",
        make=flat,
        size=5_000,
        quick_size=1_000,
        is_flat=True,
        is_durable=True,
    ),
)

WORKS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        *_KINDS,
        *(_beside(name, "again", "{} once more") for name in ("flat", "layers", "chain")),
        *(_beside(name, "whole", "{} with all that is made for it before its dispatch") for name in ("flat", "layers")),
        Kind(
            name="import", title="import of the library", make=flat, size=1, measure="import", unit="ms", group="start"
        ),
        Kind(
            name="cold",
            title="from nothing to the first result of two processes, the import included",
            make=flat,
            size=1,
            measure="first_result",
            unit="ms",
            group="start",
            is_flat=True,
        ),
        Kind(
            name="timeout",
            title="from the deadline of a step to its error",
            make=flat,
            size=1,
            measure="timeout",
            unit="ms",
            libraries=("fuseline", "pebble"),
            group="start",
        ),
        Kind(
            name="replaced",
            title="from the death of the only child to the start of the next step",
            make=flat,
            size=1,
            measure="replacement",
            unit="ms",
            libraries=("fuseline", "pebble"),
            group="start",
        ),
        *(
            Kind(
                name=f"{name}-{size // 1000}k",
                title=f"{title}, {size:,} steps",
                make=make,
                size=size,
                libraries=("fuseline",),
                group="growth",
            )
            for name, title, make in (("dag", "one graph of layers", layers), ("runs", "runs of five steps", runs))
            for size in (10_000, 100_000, 1_000_000)
        ),
        *(
            Kind(
                name=f"memory-{name}{suffix}",
                title=f"memory of a `{broker}` for each step that waits: {title}",
                make=make,
                size=1_000_000,
                measure="memory",
                unit="bytes per step",
                libraries=(library,),
                group="growth",
            )
            for broker, library, suffix in (
                ("MemoryBroker", "fuseline", ""),
                ("LocalBroker", "fuseline_durable", "-durable"),
            )
            for name, title, make in (("dag", "one graph of 1,000,000", layers), ("runs", "200,000 runs of five", runs))
        ),
    )
}
