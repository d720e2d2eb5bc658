"""Steps of odd classes; importable by children, where nobody has made one of them before."""

from __future__ import annotations

import copyreg
import gc
import threading
import weakref
from abc import ABC
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fuseline import Step

T = TypeVar("T")


class Bare(Step):
    def run_step(self, *values: Any) -> Any:
        return self.name


class Scale(Step):
    def __init__(self, factor: float, table: list[int], **rest: Any) -> None:
        super().__init__(**rest)
        self.factor = factor
        self.table = table

    def run_step(self, *values: Any) -> Any:
        return self.factor, self.table


@dataclass
class Load(Step):
    path: str = "here"
    options: dict[str, int] = field(default_factory=dict)

    def run_step(self, *values: Any) -> Any:
        return self.path, self.options


@dataclass(unsafe_hash=True)
class Equal(Step):
    """Is equal to others with the same fields, were it not a step."""

    path: str = "here"

    def setup(self) -> None:
        self.is_ready = True

    def run_step(self, *values: Any) -> Any:
        return self.path, self.is_ready


@dataclass
class Taxed(Step):
    """Has a field of its own under the name of one that steps have."""

    state: str  # type: ignore[assignment]
    year: int

    def run_step(self, *values: Any) -> Any:
        return self.year


class Abstract(Step, ABC, Generic[T]):
    def run_step(self, *values: Any) -> Any:
        return type(self).__name__


class Concrete(Abstract[int]):
    pass


class State(Step):
    """Goes to a child without one of its fields."""

    secret = "of the class"

    def __init__(self) -> None:
        super().__init__()
        self.secret = "of the step"

    def __getstate__(self) -> Any:
        return {key: value for key, value in super().__getstate__().items() if key != "secret"}

    def run_step(self, *values: Any) -> Any:
        return self.secret


class SetState(State):
    __getstate__ = Step.__getstate__

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, secret="of __setstate__")


class Made(Step):
    """Is more than its fields: what ``__new__`` does must be done in a child, too."""

    made = 0

    def __new__(cls) -> Made:
        cls.made += 1
        return super().__new__(cls)

    def run_step(self, *values: Any) -> Any:
        return self.made


class Mixin:
    made = 0

    def __new__(cls) -> Any:
        cls.made += 1
        return super().__new__(cls)


class MadeByMixin(Step, Mixin):
    def run_step(self, *values: Any) -> Any:
        return self.made


class Slotted(Step):
    __slots__ = ("limit",)

    def __init__(self) -> None:
        super().__init__()
        self.limit = 5

    def run_step(self, *values: Any) -> Any:
        return self.limit


class Items(Step, list):  # type: ignore[type-arg]
    def __init__(self) -> None:
        Step.__init__(self)
        self += [1, 2]

    def run_step(self, *values: Any) -> Any:
        return list(self)


class Registered(Step):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def run_step(self, *values: Any) -> Any:
        return self.lock.locked()


copyreg.pickle(Registered, lambda step: (Registered, ()))


class ByName(type):
    """Classes of one name are equal."""

    def __eq__(cls, other: object) -> bool:
        return isinstance(other, ByName) and cls.__name__ == other.__name__

    def __hash__(cls) -> int:
        return hash(cls.__name__)


class Twin(Step, metaclass=ByName):
    def run_step(self, *values: Any) -> Any:
        return "first"


First = Twin


class Twin(Step, metaclass=ByName):  # type: ignore[no-redef]
    def run_step(self, *values: Any) -> Any:
        return "second"


First.__qualname__ = "First"


class Part:
    pass


class LetsGo(Step):
    """Lets go of what it was sent with; returns whether that has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.part: Part | None = Part()

    def run_step(self, *values: Any) -> Any:
        assert self.part is not None
        part, self.part = weakref.ref(self.part), None
        gc.collect()
        return part() is None


class Refers(Step):
    def __init__(self, other: Step | None = None) -> None:
        super().__init__()
        self.other = other or self

    def run_step(self, *values: Any) -> Any:
        return self.other.name
