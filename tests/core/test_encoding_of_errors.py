"""Exceptions as bytes and back: whatever was raised, something faithful arrives, and nothing raises on the way."""

from __future__ import annotations

import dataclasses
import pickle
import threading

import msgspec
import pytest

from fuseline.encoding import decode_error, encode_error
from fuseline.errors import RemoteStepError, RemoteTraceback, StepTimedOut
from fuseline.values import ErrorInfo, Value, type_names


def raised(error: BaseException) -> BaseException:
    """Return ``error`` as it is after having been raised here."""
    try:
        raise error  # noqa: TRY301 - the traceback is wanted
    except BaseException as caught:
        return caught


def around(error: BaseException) -> BaseException:
    return decode_error(encode_error(raised(error)), step_name="fit", instance_id="r1", attempt=2)


class Plain(Exception):
    pass


class TwoArguments(Exception):
    """Its pickle cannot be loaded: ``args`` has one entry and ``__init__`` wants two."""

    def __init__(self, code, detail):
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class TwoArgumentsMended(TwoArguments):
    def __reduce__(self):
        return type(self), (self.code, self.detail)


class HoldsLock(Exception):
    def __init__(self, message):
        super().__init__(message)
        self.guard = threading.Lock()


class RaisingStr(Exception):
    def __str__(self):
        raise ValueError("no text")


class RaisingRepr(Exception):
    def __repr__(self):
        raise ValueError("no text")


class NoText(Exception):
    def __str__(self):
        return 3  # noqa: PLE0307 - a mistake that users make


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class FrozenWithFields(Exception):
    code: int

    def __reduce__(self):
        return type(self), (self.code,)


@dataclasses.dataclass(frozen=True)
class FrozenWithoutReduce(Exception):
    code: int


class NoAttributes(Exception):
    def __setattr__(self, name, value):
        raise TypeError("no attributes, please")


class Base(BaseException):
    pass


class ReduceRaises(Exception):
    def __reduce__(self):
        raise ValueError("not me")


class ReduceExits(Exception):
    def __reduce__(self):
        raise SystemExit(3)


def leave():
    raise SystemExit(3)


class LoadingExits(Exception):
    def __reduce__(self):
        return leave, ()


class ComesBackAsText(Exception):
    def __reduce__(self):
        return str, ("not an exception",)


# -- what comes back whole --------------------------------------------------------------------------------------------

WHOLE = [
    ValueError("no"),
    KeyError("missing", 2),
    Plain("a", {"b": [1]}),
    TwoArgumentsMended(7, "x"),
    OSError(2, "No such file", "/x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    Base("base"),
    KeyboardInterrupt(),
    StepTimedOut(step_name="s", timeout=3, killed=True),
]


@pytest.mark.parametrize("error", WHOLE, ids=lambda error: type(error).__name__)
def test_a_picklable_exception_comes_back_whole(error):
    copy = around(error)
    assert type(copy) is type(error)
    assert copy.args == error.args
    assert str(copy) == str(error)
    assert {k: v for k, v in vars(copy).items() if k != "__notes__"} == vars(error)


def test_attributes_and_notes_come_back():
    error = Plain("no")
    error.detail = [1, 2]
    error.add_note("look at the file")
    copy = around(error)
    assert copy.detail == [1, 2]
    assert copy.__notes__ == ["look at the file"]


def test_a_local_exception_class_travels_by_value():
    class Local(Exception):
        pass

    copy = around(Local("here"))
    assert type(copy).__name__ == "Local"
    assert copy.args == ("here",)


def test_a_group_comes_back_with_its_parts():
    copy = around(ExceptionGroup("two", [ValueError(1), ExceptionGroup("deeper", [Plain(2)])]))
    assert isinstance(copy, ExceptionGroup)
    assert copy.message == "two"
    assert copy.exceptions[0].args == (1,)
    assert copy.exceptions[1].exceptions[0].args == (2,)


@pytest.mark.parametrize("error", [Frozen(), FrozenWithFields(7), NoAttributes("x")], ids=lambda e: type(e).__name__)
def test_an_exception_that_refuses_attributes_comes_back_whole(error):
    copy = around(error)
    assert type(copy) is type(error)
    assert copy.args == error.args
    assert isinstance(copy.__cause__, RemoteTraceback)


# -- what comes back as a stand-in ------------------------------------------------------------------------------------

STOOD_IN = {
    "2-argument init": (TwoArguments(7, "x"), "7: x", "cannot be loaded again"),
    "unpicklable attribute": (HoldsLock("locked"), "locked", "attribute 'guard' is of type _thread.lock"),
    "unpicklable argument": (Plain(threading.Lock()), "lock", "cannot be pickled"),
    "pickling raises": (ReduceRaises("hm"), "hm", "ValueError: not me"),
    "pickling exits": (ReduceExits("hm"), "hm", "SystemExit"),
    "loading exits": (LoadingExits("hm"), "hm", "SystemExit"),
    "frozen": (FrozenWithoutReduce(7), "7", "FrozenInstanceError"),
    "a group with such a part": (ExceptionGroup("two", [HoldsLock("x")]), "two (1 sub-exception)", "cannot be pickled"),
}


@pytest.mark.parametrize(("error", "message", "reason"), STOOD_IN.values(), ids=STOOD_IN.keys())
def test_an_exception_that_cannot_travel_is_stood_in_for(error, message, reason):
    copy = around(error)
    assert type(copy) is RemoteStepError
    assert copy.type_name == type_names(type(error))[0]
    assert message in copy.original_message
    assert reason in str(copy)
    assert str(copy).startswith(f"step 'fit' of run r1 (attempt 2) raised {copy.type_name}: {copy.original_message} ")
    assert (copy.step_name, copy.instance_id, copy.attempt) == ("fit", "r1", 2)
    assert "make it picklable: give all arguments of its __init__ to super().__init__" in str(copy)
    assert "in raised" in str(copy.__cause__)


def test_an_exception_that_comes_back_as_something_else_is_stood_in_for():
    copy = around(ComesBackAsText("hm"))
    assert type(copy) is RemoteStepError
    assert "it came back as a str" in str(copy)


def test_an_exception_that_loads_only_elsewhere_is_stood_in_for():
    for data in (b"", b"garbage", pickle.dumps(Plain())[:-5], b"cno_such_module\nError\n."):
        info = ErrorInfo(type_names=("my.Error", "Exception"), message="from there", value=Value(data))
        copy = decode_error(info, step_name="fit")
        assert type(copy) is RemoteStepError
        assert "raised my.Error: from there (shown by a stand-in, because it cannot be loaded here" in str(copy)


def test_an_exception_whose_loading_exits_is_stood_in_for():
    info = ErrorInfo(type_names=("my.Error",), message="hm", value=Value(pickle.dumps(LoadingExits())))
    assert type(decode_error(info, step_name="fit")) is RemoteStepError


# -- message, names, traceback ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RaisingStr("x"), RaisingRepr("x"), NoText()], ids=lambda e: type(e).__name__)
def test_an_exception_without_a_text_comes_back_all_the_same(error):
    info = encode_error(raised(error))
    assert isinstance(info.message, str)
    assert type(decode_error(info, step_name="fit")) is type(error)


def test_a_text_that_raises_is_said_so():
    assert encode_error(RaisingStr()).message == "<its __str__ raised ValueError>"
    assert encode_error(NoText()).message == "<its __str__ raised TypeError>"


def test_a_text_that_is_no_unicode_can_be_sent():
    class Odd(Exception):
        def __reduce__(self):
            raise TypeError("not \udcff")

    Odd.__qualname__ = "Odd\udcff"
    info = encode_error(raised(Odd("name of a file: \udcff, ä")))
    assert info.message == "name of a file: \\udcff, ä"
    assert "\\udcff" in info.reason
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(info), type=ErrorInfo) == info


class Markup(str):
    """Text whose parts are of its own kind."""

    def __getitem__(self, key):
        return Markup(str.__getitem__(self, key))

    def encode(self, *args):
        return str.encode(self, *args)


class MarkedUp(Exception):
    def __str__(self):
        return Markup("bad row")


def test_a_message_of_another_kind_of_text_can_be_sent():
    info = encode_error(raised(MarkedUp()))
    assert (type(info.message), info.message) == (str, "bad row")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(info), type=ErrorInfo) == info


def test_a_message_is_cut_at_10_000_characters_beside_the_whole_exception():
    info = encode_error(Plain("x" * 1_000_000))
    assert len(info.message) == 10_000
    assert len(decode_error(info, step_name="fit").args[0]) == 1_000_000


def test_the_names_of_class_and_bases_are_kept_nearest_first():
    assert encode_error(FileNotFoundError()).type_names == (
        "FileNotFoundError",
        "OSError",
        "Exception",
        "BaseException",
    )
    own, *bases = type_names(Plain)
    assert own.endswith("test_encoding_of_errors.Plain")
    assert bases == ["Exception", "BaseException"]


def test_the_traceback_of_where_it_was_raised_becomes_the_cause():
    copy = around(Plain("no"))
    assert isinstance(copy.__cause__, RemoteTraceback)
    assert "raise error" in str(copy.__cause__)
    assert "Plain: no" in str(copy.__cause__)


def test_an_exception_that_was_never_raised_has_no_traceback():
    info = encode_error(Plain("no"))
    assert info.traceback == ""
    assert decode_error(info, step_name="fit").__cause__ is None


def test_the_chain_of_an_exception_is_in_its_traceback():
    def chained():
        try:
            raise KeyError("first")  # noqa: TRY301 - a chain is wanted
        except KeyError as first:
            raise Plain("second") from first

    try:
        chained()
    except Plain as error:
        info = encode_error(error)
    assert "KeyError: 'first'" in info.traceback
    assert "direct cause" in info.traceback
    assert "KeyError: 'first'" in str(decode_error(info, step_name="fit").__cause__)


def test_a_chain_that_leads_in_a_circle_is_no_trouble():
    one, other = raised(Plain(1)), raised(Plain(2))
    one.__cause__, other.__cause__ = other, one
    assert decode_error(encode_error(one), step_name="fit").args == (1,)


def test_an_info_without_anything_is_still_an_exception():
    copy = decode_error(ErrorInfo(type_names=(), message=""), step_name="fit")
    assert "step 'fit' raised an exception" in str(copy)
