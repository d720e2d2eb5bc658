"""The steps of a workflow on their way to a child: what is the same for many is said once.

::

    step ─ name, values of its fields ──▶ ┐
    step ─ name, values of its fields ──▶ ├─ one pickle ──▶ child: makes a step of it when it is first wanted
    class, names of its fields ─────────▶ ┘

Large workflows have many steps of few classes. Pickled and unpickled as objects, each would take several times as long,
and a child needs its share of them only.
"""

from __future__ import annotations

import copyreg
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Self

from fuseline.policies.base import StepPolicy
from fuseline.step import LEFT_BEHIND, Step

__all__ = ["PackedSteps"]

_HOOKS_OF_PICKLE = (
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)

Shape = tuple[type[Step], tuple[str, ...]]
Parts = tuple[int, tuple[Any, ...]]
Hosted = Mapping[str, tuple[Step, Sequence[StepPolicy]]]


class PackedSteps(Hosted):
    """``{name: (step, its policies)}``, each step made when it is first asked for. Thread-safe.

    Args:
        shapes: classes, each with the names of the fields of its steps.
        steps: ``{name: (which shape, values of its fields)}``; emptied as steps are made.
        policies: ``{name: policies}``, those that have some.
    """

    def __init__(
        self, shapes: Sequence[Shape], steps: dict[str, Parts | None], policies: Mapping[str, Sequence[StepPolicy]]
    ) -> None:
        self._shapes = shapes
        self._steps = steps
        self._policies = policies
        self._made: dict[str, tuple[Step, Sequence[StepPolicy]]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, hosted: Hosted) -> Self | None:
        """Return the steps packed; None if one of them is more than its fields, or has its own way to be pickled."""
        shapes: list[Shape] = []
        takers: dict[tuple[int, tuple[str, ...]], Callable[[dict[str, Any]], Parts]] = {}
        steps: dict[str, Parts | None] = {}
        for name, (step, _) in hosted.items():
            fields = step.__dict__
            found = (id(type(step)), tuple(fields))
            take = takers.get(found)
            if take is None:
                if not _is_plain(type(step)):
                    return None
                kept = tuple(field for field in fields if field not in LEFT_BEHIND and field != "name")
                take = takers[found] = _taker(len(shapes), kept)
                shapes.append((type(step), kept))
            steps[name] = take(fields)
        return cls(shapes, steps, {name: own for name, (_, own) in hosted.items() if own})

    def __reduce__(self) -> Any:
        if self._made:
            return dict, (dict(self),)
        return type(self), (self._shapes, self._steps, self._policies)

    def __getitem__(self, name: str) -> tuple[Step, Sequence[StepPolicy]]:
        return self._made.get(name) or self._make(name)

    def _make(self, name: str) -> tuple[Step, Sequence[StepPolicy]]:
        with self._lock:
            parts = self._steps[name]
            if parts is None:  # another thread was faster
                return self._made[name]
            shape, values = parts
            cls, fields = self._shapes[shape]
            step = cls.__new__(cls)
            step.__dict__.update(zip(fields, values, strict=True), name=name)
            made = self._made[name] = (step, self._policies.get(name, ()))
            self._steps[name] = None  # the values are the step's alone, which may let go of them
            return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def _is_plain(cls: type[Step]) -> bool:
    """Return whether a step of this class is its fields, and pickles as one."""
    if cls.__basicsize__ != Step.__basicsize__ or cls in copyreg.dispatch_table:  # more than fields; another's way
        return False
    others = [vars(each) for each in cls.__mro__ if each not in (Step, object)]
    return not any(hook in own for own in others for hook in _HOOKS_OF_PICKLE)


def _taker(shape: int, fields: tuple[str, ...]) -> Callable[[dict[str, Any]], Parts]:
    """Return what takes the values of such fields."""
    if len(fields) < 2:
        return lambda found: (shape, tuple([found[field] for field in fields]))
    values = itemgetter(*fields)
    return lambda found: (shape, values(found))
