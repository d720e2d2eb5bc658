"""What goes in and what comes out of a run, on every executor: code, odd exceptions, large and deep values."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fuseline import ProcessEngine, RunFailed, Workflow
from fuseline.errors import NotPicklableError, RemoteStepError
from fuseline.messages import Unloadable
from fuseline.testing.steps import Echo

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

import things
from arena import BROKERS, brokers
from things import Adder, Call, FrozenDataError, FrozenError, LockedError, SpeechlessError

EXECUTORS = ["loky", "threads", "inline"]
MUCH = 100_000_000  #: bytes


def adder(number: int) -> Callable[[int], int]:
    return lambda other: number + other


def in_notebook() -> types.ModuleType:
    """Return a ``__main__`` as that of a notebook: it has no file, and nobody can import it."""
    cell = (
        "class Cell:\n    def __call__(self, other):\n        return helper(other)\ndef helper(x):\n    return x + 41\n"
    )
    module = types.ModuleType("__main__")
    exec(cell, module.__dict__)
    return module


CODE: dict[str, Callable[[], Callable[[int], int]]] = {
    "lambda": lambda: lambda other: other + 41,
    "closure": lambda: adder(41),
    "partial": lambda: partial(max, 42),
    "bound method": lambda: Adder(41).add,
    "partial of a lambda": lambda: partial(lambda a, b: a + b, 41),
    "object of a class of a notebook": lambda: in_notebook().Cell(),
    "function of a notebook": lambda: in_notebook().helper,
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", BROKERS)
def test_code_travels(kind: str, executor: str) -> None:
    workflow = Workflow(outputs=[Call()])
    with brokers(kind) as broker:
        runs = {name: broker.dispatch_workflow(workflow.to_schema(), {"call": make()}) for name, make in CODE.items()}
        ProcessEngine(broker, [workflow], processes=1, executor=executor).work()
        assert {name: broker.result(run) for name, run in runs.items()} == dict.fromkeys(CODE, 42)


def fail(how: str) -> None:
    if how == "frozen":
        raise FrozenError("cold")
    if how == "frozen data":
        raise FrozenDataError(7)
    if how == "chained":
        try:
            raise KeyError("inner")  # noqa: TRY301
        except KeyError as error:
            raise ValueError("outer") from error
    if how == "grouped":
        raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])
    if how == "unpicklable":
        raise LockedError
    if how == "speechless":
        raise SpeechlessError
    raise ValueError(b"x" * MUCH)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("how", ["frozen", "frozen data", "chained", "grouped", "unpicklable", "speechless", "large"])
def test_an_exception_is_still_that_exception(how: str, executor: str) -> None:
    with pytest.raises(RunFailed) as caught:
        Workflow(outputs=[Call()]).run({"call": fail, "argument": how}, executor=executor, processes=1)
    error = caught.value.__cause__
    if how == "frozen":
        assert isinstance(error, FrozenError)
        assert error.args == ("cold",)
    elif how == "frozen data":
        assert isinstance(error, RemoteStepError)
        assert error.type_name.endswith("FrozenDataError")
    elif how == "chained":
        assert isinstance(error, ValueError)
        assert "KeyError: 'inner'" in str(error.__cause__)
    elif how == "grouped":
        assert isinstance(error, ExceptionGroup)
        assert [type(part) for part in error.exceptions] == [ValueError, KeyError]
    elif how == "unpicklable":
        assert isinstance(error, RemoteStepError)
        assert error.original_message == "locked"
        assert "LockedError" in error.type_name
    elif how == "speechless":
        assert isinstance(error, SpeechlessError)
        assert "__str__ raised RuntimeError" in str(caught.value)
    else:
        assert isinstance(error, ValueError)
        assert len(error.args[0]) == MUCH


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda _: threading.Lock(), "lock"),
        (lambda _: (i for i in range(3)), "generator"),
        (lambda _: nested(100_000), "recursion"),
    ],
    ids=["lock", "generator", "deep recursion"],
)
def test_a_result_that_cannot_travel_is_named(make: Callable[[Any], Any], part: str, executor: str) -> None:
    with pytest.raises(RunFailed, match="the result of step 'Call'") as caught:
        Workflow(outputs=[Call()]).run({"call": make}, executor=executor, processes=1)
    assert isinstance(caught.value.__cause__, NotPicklableError)
    assert part in str(caught.value.__cause__)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_none_is_a_value(executor: str) -> None:
    make, use = Call(name="make"), Echo(name="use")
    make >> use
    result = Workflow(outputs=[make, use]).run({"call": give_none}, executor=executor, processes=1)
    assert result == [None, None]


def give_none(_: Any) -> None:
    return None


@pytest.mark.parametrize("kind", BROKERS)
def test_a_hundred_megabytes_travel_both_ways(kind: str, tmp_path: Path) -> None:
    value = os.urandom(1000) * (MUCH // 1000)
    with brokers(kind, tmp_path / "runs.db") as broker:
        result = Workflow(outputs=[Echo()]).run({"value": value}, broker=broker, processes=1)
        assert result == value


@pytest.mark.parametrize("kind", BROKERS)
def test_an_input_that_can_no_longer_be_loaded_spoils_nothing_else(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = Workflow(outputs=[Echo()]).to_schema()
    with brokers(kind) as broker:
        fine = broker.dispatch_workflow(schema, {"value": [1]})
        lost = broker.dispatch_workflow(schema, {"value": things.Adder(2)})
        monkeypatch.delattr(things, "Adder")
        infos = {info.instance_id: info for info in broker.list_runs()}
        assert infos[fine].inputs == {"value": [1]}
        [stand_in] = infos[lost].inputs.values()
        assert isinstance(stand_in, Unloadable)
        assert "Adder" in str(stand_in.error)
        assert broker.get_run(lost).inputs.keys() == {"value"}
