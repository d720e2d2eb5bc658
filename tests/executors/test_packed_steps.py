"""What a child gets of the steps of a workflow: the same as if each had been pickled as an object."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest

from fuseline import Depends, Step, Workflow
from fuseline.errors import NotPicklableError
from fuseline.executors.pickling import pickle_hosted
from fuseline.policies import RetryPolicy
from fuseline.states import State
from fuseline.step import LEFT_BEHIND
from fuseline.worker.packed import PackedSteps


class Bare(Step):
    def run_step(self, *values: Any) -> None: ...


class Scale(Step):
    def __init__(self, factor: float, table: list[int], **rest: Any) -> None:
        super().__init__(**rest)
        self.factor = factor
        self.table = table

    def run_step(self, *values: Any) -> None: ...


@dataclass
class Load(Step):
    path: str = "here"
    options: dict[str, int] = field(default_factory=dict)

    def run_step(self, *values: Any) -> None: ...


class Forgetful(Step):
    """Has its own way to be pickled."""

    secret = "of the class"

    def run_step(self, *values: Any) -> None: ...

    def __getstate__(self) -> Any:
        return {key: value for key, value in super().__getstate__().items() if key != "secret"}


class Slotted(Step):
    __slots__ = ("limit",)

    def run_step(self, *values: Any) -> None: ...


class Made(Step):
    """Is more than its fields: what ``__new__`` does must be done in a child, too."""

    def __new__(cls, *args: Any) -> Made:
        made = super().__new__(cls)
        made.token = object()
        return made

    token: Any

    def __getstate__(self) -> Any:
        return {key: value for key, value in super().__getstate__().items() if key != "token"}

    def run_step(self, *values: Any) -> None: ...


class Refers(Step):
    def __init__(self, other: Step | None = None) -> None:
        super().__init__()
        self.other = other or self

    def run_step(self, *values: Any) -> None: ...


def sent(*steps: Step, **rest: Any) -> Any:
    """Return what a child has of a workflow of these steps."""
    return pickle.loads(pickle_hosted("w", Workflow(steps, name="w", **rest).hosted()))


def fields(step: Step) -> dict[str, Any]:
    return {name: value for name, value in vars(step).items() if name not in LEFT_BEHIND}


def test_plain_steps_come_as_they_are() -> None:
    table = [1, 2, 3]
    steps = (Bare(), Bare(name="named"), Scale(2.0, table), Scale(3.0, table), Load("there", {"a": 1}), Load())
    steps[2].extra = "put there later"  # type: ignore[attr-defined]
    steps[0] >> steps[2]
    steps[1].state = State.FAILED
    there = sent(*steps)
    assert isinstance(there, PackedSteps)
    assert [*there] == [step.name for step in steps]
    assert len(there) == len(steps)
    for step in steps:
        copy, policies = there[step.name]
        assert (type(copy), fields(copy)) == (type(step), fields(step))
        assert (policies, copy.state, copy.error, copy._predecessors) == ((), State.PENDING, None, {})
        assert there[step.name][0] is copy
    assert there["Scale"][0].table is there["Scale-2"][0].table
    with pytest.raises(KeyError):
        there["nobody"]


def test_policies_come_with_their_steps() -> None:
    own, shared = RetryPolicy(3), RetryPolicy(2)
    there = sent(Bare(policies=[own]), Load(), policies=[shared])
    assert isinstance(there, PackedSteps)
    assert [there[name][1] for name in there] == [(own,), (shared,)]


def test_what_was_put_on_a_step_under_the_name_of_a_default_stays_behind() -> None:
    step = Bare()
    step.error = OSError("of the last attempt")
    assert sent(step)["Bare"][0].error is None


@pytest.mark.parametrize("step", [Forgetful(), Slotted(), Made()], ids=lambda step: type(step).__name__)
def test_a_step_with_its_own_way_to_be_pickled_goes_that_way(step: Step) -> None:
    step.secret = "of the step"  # type: ignore[attr-defined]
    if isinstance(step, Slotted):
        step.limit = 5  # type: ignore[attr-defined]
    there = sent(step, Bare())
    assert not isinstance(there, PackedSteps)
    copy, _ = there[step.name]
    assert copy.secret == ("of the class" if isinstance(step, Forgetful) else "of the step")
    assert isinstance(there["Bare"][0], Bare)
    if isinstance(step, Slotted):
        assert copy.limit == 5
    if isinstance(step, Made):
        assert type(copy.token) is object


def test_a_step_that_another_one_has_is_one_step() -> None:
    other = Bare()
    there = sent(other, Refers(other), Refers())
    assert there["Refers"][0].other is there["Bare"][0]
    assert there["Refers-2"][0].other is there["Refers-2"][0]


def test_a_step_that_a_class_knows_is_one_step() -> None:
    first = Bare()

    class Local(Step):  # travels by value, and so does the default
        def run_step(self, value: Any = Depends(first)) -> Any:
            return value

    there = sent(Local())
    assert there["Local"][0].run_step.__defaults__[0].step is there["Bare"][0]


def test_a_field_that_cannot_be_pickled_is_named() -> None:
    good, bad = Scale(1.0, []), Scale(2.0, [])
    bad.handle = (each for each in ())  # type: ignore[attr-defined]
    with pytest.raises(NotPicklableError, match=r"step 'Scale-2' to a child process.*handle"):
        sent(good, bad)
