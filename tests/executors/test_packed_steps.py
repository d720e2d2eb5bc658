"""What a child gets of the steps of a workflow: the same as if each had been pickled as an object."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fuseline import Depends, Step, Workflow
from fuseline.errors import NotPicklableError
from fuseline.executors.pickling import pickle_hosted
from fuseline.policies import RetryPolicy
from fuseline.states import State as StepState
from fuseline.step import LEFT_BEHIND
from fuseline.worker.packed import PackedSteps

from . import odd_steps
from .odd_steps import Bare, Concrete, Equal, First, LetsGo, Load, Made, Refers, Scale, Taxed, Twin


def sent(*steps: Step, **rest: Any) -> Any:
    """Return what a child has of a workflow of these steps."""
    return pickle.loads(pickle_hosted("w", Workflow(steps, name="w", **rest).hosted()))


def run(*steps: Step) -> Any:
    """Return what they return in a child."""
    return Workflow(steps, name="w").run(processes=1)


def fields(step: Step) -> dict[str, Any]:
    return {name: value for name, value in vars(step).items() if name not in LEFT_BEHIND}


def test_plain_steps_come_as_they_are() -> None:
    table = [1, 2, 3]
    steps = (
        Bare(), Bare(name="named"), Scale(2.0, table), Scale(3.0, table), Load("there", {"a": 1}), Load(), Concrete()
    )  # fmt: skip
    steps[2].extra = "put there later"  # type: ignore[attr-defined]
    steps[0] >> steps[2]
    steps[1].state, steps[1].error = StepState.FAILED, OSError("of the last attempt")
    there = sent(*steps)
    assert isinstance(there, PackedSteps)
    assert [*there] == [step.name for step in steps]
    assert len(there) == len(steps)
    for step in steps:
        copy, policies = there[step.name]
        assert (type(copy), fields(copy)) == (type(step), fields(step))
        assert (policies, copy.state, copy.error, dict(copy._predecessors)) == ((), StepState.PENDING, None, {})
        assert there[step.name][0] is copy
    assert there["Scale"][0].table is there["Scale-2"][0].table
    with pytest.raises(KeyError):
        there["nobody"]


def test_plain_steps_run_in_a_child_where_their_classes_are_new() -> None:
    steps = [Load(), Load("there"), Equal(), Equal(), Taxed("CA", 2026), Concrete(), Bare(), Scale(2.0, [1])]
    assert isinstance(sent(*steps), PackedSteps)
    assert run(*steps) == [
        ("here", {}), ("there", {}), ("here", True), ("here", True), 2026, "Concrete", "Bare", (2.0, [1])
    ]  # fmt: skip


def test_policies_come_with_their_steps_and_shared_ones_stay_one() -> None:
    own, shared = RetryPolicy(3), RetryPolicy(2)
    there = sent(Bare(policies=[own]), Load(), Bare(), policies=[shared])
    assert isinstance(there, PackedSteps)
    assert [there[name][1] for name in there] == [(own,), (shared,), (shared,)]
    assert there["Load"][1][0] is there["Bare-2"][1][0]


@pytest.mark.parametrize(
    ("name", "returns"),
    [
        ("State", "of the class"),
        ("SetState", "of __setstate__"),
        ("Slotted", 5),
        ("Items", [1, 2]),
        ("Registered", False),
        ("MadeByMixin", 1),
        ("Made", 1),
    ],
)
def test_a_step_with_its_own_way_to_be_made_or_pickled_goes_that_way(name: str, returns: Any) -> None:
    step = getattr(odd_steps, name)()
    assert not isinstance(sent(step, Bare()), PackedSteps)
    assert run(step, Bare()) == [returns, "Bare"]


@pytest.mark.parametrize(
    "hook", ["__new__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__"]
)
def test_each_hook_of_pickle_is_a_way_of_its_own(hook: str) -> None:
    kind = type("Hooked", (Bare,), {hook: getattr(object, hook, None) or (lambda self, *rest: None)})
    assert PackedSteps.of({"a": (Bare(), ())}) is not None
    assert PackedSteps.of({"a": (object.__new__(kind), ())}) is None


def test_classes_that_are_equal_are_not_the_same() -> None:
    there = sent(First(name="a"), Twin(name="b"))
    assert [there[name][0].run_step() for name in "ab"] == ["first", "second"]


def test_what_a_step_lets_go_of_is_gone() -> None:
    assert run(LetsGo()) is True


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


def test_what_is_there_can_be_sent_on() -> None:
    there = sent(Load("there"), Bare())
    before = pickle.loads(pickle.dumps(there))
    assert isinstance(before, PackedSteps)
    step, _ = there["Load"]
    step.path = "changed"
    after = pickle.loads(pickle.dumps(there))
    assert (before["Load"][0].path, after["Load"][0].path) == ("there", "changed")
    assert after["Bare"][0].name == "Bare"


def test_threads_that_ask_at_the_same_time_get_the_same_step() -> None:
    there = sent(*[Bare() for _ in range(2_000)])
    names = [*there]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: [there[name][0] for name in names], range(4)))
    assert all(len(set(map(id, steps))) == 1 for steps in zip(*found, strict=True))


def test_what_new_does_is_done_once_for_each() -> None:
    Made.made = 0
    there = sent(Made(), Made())
    assert Made.made == 4
    assert [*there] == ["Made", "Made-2"]
