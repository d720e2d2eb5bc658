"""Objects as bytes and back: data, functions, classes, and what cannot travel."""

from __future__ import annotations

import datetime
import functools
import operator
import pickle
import subprocess
import sys
import textwrap
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

from fuseline.encoding import decode, encode, encode_checked
from fuseline.errors import NotPicklableError
from fuseline.values import Value

from .helpers import HANG

Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Pair:
    left: object
    right: object


def around(value):
    """Return what becomes of ``value`` on its way as an input and as a result."""
    one, other = decode(encode(value)), decode(encode_checked(value, "the result of step 'fit'"))
    assert type(one) is type(other)
    return other


# -- what travels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        10**100,
        2.5,
        "ü\0\ud800",
        b"\0\xff",
        [],
        [1, [2, (3, {4: {5}})]],
        OrderedDict(a=1),
        Point(1, 2),
        Pair(None, [Pair(1, 2)]),
        datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC),
        ...,
        NotImplemented,
        int,
        Pair,
        len,
        operator.add,
        around,
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_data_and_things_with_a_name_come_back_equal(value):
    assert around(value) == value


def test_values_of_equal_data_are_equal_and_frozen():
    assert encode({"a": [1, None]}) == encode({"a": [1, None]})
    with pytest.raises(AttributeError):
        encode(1).data = b""


def test_arrays_come_back_equal_and_of_the_same_kind():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[::2]
    copy = around(array)
    assert copy.dtype == array.dtype
    assert np.array_equal(copy, array)


def test_nothing_is_shared_between_the_object_and_its_value():
    data = {"a": [1]}
    value = encode(data)
    data["a"].append(2)
    assert decode(value) == {"a": [1]}
    assert decode(value) is not decode(value)


def test_identity_within_one_object_is_kept():
    inner = []
    loop = [inner, inner]
    loop.append(loop)
    copy = around(loop)
    assert copy[0] is copy[1]
    assert copy[2] is copy


def test_lambdas_closures_partials_and_bound_methods_travel():
    factor = 3
    assert around(lambda x: x * factor)(2) == 6
    assert around(functools.partial(lambda a, b: a - b, 10))(4) == 6
    assert around(functools.partial(operator.sub, 10))(4) == 6
    assert around([1, 2].count)(2) == 1
    assert [f(1) for f in around([lambda x: x + 1, len.__class__, abs])[::2]] == [2, 1]


def test_local_classes_and_their_instances_travel():
    class Local:
        def __init__(self, value):
            self.value = value

        def double(self):
            return self.value * 2

    assert around(Local(4)).double() == 8
    assert around(Local)(5).double() == 10
    assert around({"deep": [Local(1)]})["deep"][0].double() == 2


def test_an_error_while_encoding_leaves_no_half_value():
    with pytest.raises(NotPicklableError):
        encode([1, 2, threading.Lock()])
    assert decode(encode([1, 2])) == [1, 2]


MAIN = """
    from fuseline.encoding import encode, encode_error

    class Thing:
        def __init__(self, value): self.value = value
        def double(self): return twice(self.value)

    class Broken(Exception):
        pass

    def twice(x): return 2 * x

    if __name__ == "__main__":
        values = [encode(Thing(4)), encode(Thing), encode(twice), encode([Thing(1)]), encode_error(Broken(1)).value]
        print(",".join(value.data.hex() for value in values))
"""


def test_classes_and_functions_of_the_main_script_travel_by_value():
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MAIN)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=True,
    )
    assert not hasattr(sys.modules["__main__"], "Thing")
    thing, cls, twice, things, broken = [Value(bytes.fromhex(text)) for text in program.stdout.strip().split(",")]
    assert decode(thing).double() == 8
    assert decode(cls)(5).double() == 10
    assert decode(twice)(3) == 6
    assert decode(things)[0].double() == 2
    assert type(decode(broken)).__name__ == "Broken"


# -- what cannot be pickled -------------------------------------------------------------------------------------------

LOCK = threading.Lock()


class Holder:
    def __init__(self, **parts):
        self.__dict__.update(parts)


class Slotted:
    __slots__ = ("lock", "number")

    def __init__(self):
        self.lock, self.number = threading.Lock(), 1


class OwnState:
    """Pickles something else than its ``__dict__``."""

    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state


def uses_a_global():
    return LOCK


def closure():
    guard = threading.Lock()
    return lambda: guard


def half_made_closure():
    guard = later = threading.Lock()

    def function():
        return later, guard  # noqa: F821 - the cell of it is empty

    del later
    return function


CULPRITS = {
    "the object itself": (threading.Lock(), "a _thread.lock"),
    "generator": ((i for i in ()), "a generator"),
    "attribute": (Holder(model=1, guard=threading.Lock()), "its attribute 'guard' is of type _thread.lock"),
    "attribute of an attribute": (
        Holder(inner=Holder(guard=threading.Lock())),
        "its attribute 'guard' of its attribute 'inner' is of type _thread.lock",
    ),
    "slot": (Slotted(), "its attribute 'lock' is of type _thread.lock"),
    "item of a list": ([1, threading.Lock()], "its item 1 is of type _thread.lock"),
    "item of a dict": ({"guard": threading.Lock()}, "its item 'guard' is of type _thread.lock"),
    "deep in data": ({"a": [0, Holder(guard=threading.Lock())]}, "attribute 'guard' of its item 1 of its item 'a'"),
    "closure variable": (closure(), "its closure variable 'guard' is of type _thread.lock"),
}


@pytest.mark.parametrize(("value", "culprit"), CULPRITS.values(), ids=CULPRITS.keys())
@pytest.mark.parametrize("function", [encode, encode_checked])
def test_an_error_names_what_and_the_part_to_blame_and_what_to_do(function, value, culprit):
    with pytest.raises(NotPicklableError) as caught:
        function(value, "the result of step 'fit'")
    error = caught.value
    assert error.what == "the result of step 'fit'"
    assert culprit in error.reason
    assert str(error).startswith(f"cannot send the result of step 'fit': {error.reason}. ")
    assert "plain data" in str(error)
    assert error.__cause__ is not None
    assert isinstance(error, TypeError)


def test_a_global_of_a_function_that_travels_by_value_is_named(monkeypatch):
    monkeypatch.setattr(uses_a_global, "__module__", "__main__")
    with pytest.raises(NotPicklableError, match=r"its global 'LOCK' is of type _thread\.lock"):
        encode(uses_a_global)


STATES = {
    "one lock": (threading.Lock(),),
    "number and lock": (1, threading.Lock()),
    "three": (1, 2, threading.Lock()),
    "list": [threading.Lock()],
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_an_object_with_a_state_of_its_own_is_refused_like_any_other(state):
    with pytest.raises(NotPicklableError, match="cannot send this value"):
        encode(OwnState(state))


def test_a_closure_that_is_only_half_made_is_refused_like_any_other():
    with pytest.raises(NotPicklableError, match="closure variable 'guard'"):
        encode(half_made_closure())


def test_an_object_whose_pickling_raises_is_refused_with_its_error():
    class Refuses:
        def __reduce__(self):
            raise ValueError("not me")

    with pytest.raises(NotPicklableError, match="ValueError: not me"):
        encode(Refuses())


def test_endless_nesting_is_refused_and_not_a_crash():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotPicklableError):
        encode(deep)


# -- what cannot be loaded again --------------------------------------------------------------------------------------


class LoadsNever:
    def __reduce__(self):
        return int, ("no number",)


class LoadsNeverEither:
    def __setstate__(self, state):
        raise RuntimeError("cannot be restored")

    def __getstate__(self):
        return {"a": 1}


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value], lambda value: Pair(1, {"a": value})])
@pytest.mark.parametrize("cls", [LoadsNever, LoadsNeverEither])
def test_what_cannot_be_loaded_again_is_refused_where_it_was_made(cls, wrap):
    with pytest.raises(NotPicklableError, match="the result of step 'fit': its pickle cannot be loaded again"):
        encode_checked(wrap(cls()), "the result of step 'fit'")


def test_an_array_of_objects_that_cannot_be_loaded_is_refused_too():
    with pytest.raises(NotPicklableError, match="cannot be loaded again"):
        encode_checked(np.array([LoadsNever()], dtype=object), "the result")


def test_an_unchecked_value_shows_its_fault_when_it_is_decoded():
    value = encode(LoadsNever())
    with pytest.raises(ValueError, match="no number"):
        decode(value)


class CountsLoads:
    loads = 0

    def __setstate__(self, state):
        CountsLoads.loads += 1

    def __getstate__(self):
        return {"a": 1}


def test_only_what_may_fail_to_load_is_loaded_as_a_check(monkeypatch):
    encode_checked(CountsLoads(), "it")
    assert CountsLoads.loads == 1
    encode(CountsLoads())
    assert CountsLoads.loads == 1

    def no_loading(data):
        raise AssertionError("loaded as a check")

    monkeypatch.setattr(pickle, "loads", no_loading)
    for value in (None, [1, "a"], {"a": {1.5}}, np.zeros(3), datetime.date(2024, 1, 2)):
        encode_checked(value, "it")


@pytest.mark.parametrize("value", [b"x" * 100, [b"x" * 100]])
def test_a_value_larger_than_a_message_takes_is_refused(monkeypatch, value):
    monkeypatch.setattr("fuseline.encoding._MOST_BYTES", 100)
    with pytest.raises(NotPicklableError, match="Store it and send its path"):
        encode_checked(value, "it")
    with pytest.raises(NotPicklableError, match="cannot send the input 'x': it is"):
        encode(value, "the input 'x'")
