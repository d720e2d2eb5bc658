"""How the user's objects travel: as bytes that brokers and schedulers pass on and never look into.

What makes these bytes, and objects of them again, is ``fuseline.encoding``. A broker process does not even import that.
"""

from __future__ import annotations

import pickle

import msgspec

from fuseline.errors import FuselineError

__all__ = ["COMING", "ErrorInfo", "Value", "encode_own_error", "type_name", "type_names"]


class Value(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A user's object on its way: its pickle, which only the code of a step or the user's own program opens."""

    data: bytes = b""
    file: str = ""  #: path of the file that has the pickle instead, if it is large


#: Stands for a result that is not there yet: that of the assignment which another one follows.
COMING = Value()


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """An exception on its way, and what a program can know of it without unpickling."""

    type_names: tuple[str, ...]  #: dotted names of its class and that class's bases, nearest first
    message: str  #: what ``str()`` gave, cut at 10,000 characters
    traceback: str = ""  #: as printed where it was raised; empty if it was never raised
    value: Value | None = None  #: the exception itself; None if it cannot be pickled
    reason: str = ""  #: why there is no value
    note: str = ""  #: where it happened, and what was printed there last; a note of the exception


def encode_own_error(error: FuselineError) -> ErrorInfo:
    """Return an error of this package in a form that travels; it is known to pickle, and to load again."""
    return ErrorInfo(type_names=type_names(type(error)), message=str(error), value=Value(pickle.dumps(error, 5)))


def type_names(cls: type) -> tuple[str, ...]:
    """Return the dotted names of an exception class and its bases, nearest first; those of built-ins have no dot."""
    return tuple(type_name(base) for base in cls.__mro__ if base is not object)


def type_name(cls: type) -> str:
    """Return the dotted name of a class; that of a built-in has no dot."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
