"""Objects as values and back, where user code runs, and nowhere else.

``encode`` makes a ``Value`` of an object, ``decode`` the object again. Brokers and schedulers pass values on and never
look inside. ``encode_error`` does the same for an exception and adds what a program can know of it without unpickling:
the names of its classes, its message, its traceback.

The standard pickler is several times faster than cloudpickle, so it goes first. It pickles a class of ``__main__`` by
name, and another process has another ``__main__``; whenever it meets one, or anything that it cannot pickle (a lambda,
a class defined in a function), cloudpickle takes over, which sends such things by value.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import traceback
from collections.abc import Callable
from typing import Any

from fuseline.errors import NotPicklableError, RemoteStepError, RemoteTraceback, StoreError
from fuseline.value_files import map_value
from fuseline.values import ErrorInfo, Value, type_name, type_names
from fuseline.workplace import LARGE, Workplace

__all__ = [
    "check_size",
    "decode",
    "decode_error",
    "encode",
    "encode_checked",
    "encode_error",
    "explain_unpicklable",
    "show",
]

_PROTOCOL = 5
#: Types from these packages load wherever they were dumped, and may be large: not loaded a second time as a check.
_TRUSTED = frozenset(
    {"builtins", "numpy", "pandas", "pyarrow", "scipy", "datetime", "decimal", "fractions", "pathlib", "uuid"}
)
#: Types whose pickles need no look at what is in them.
_SCALARS = frozenset({bool, int, float, complex, str, bytes, type(None)})
#: Those of them that cannot be large; an ``int`` can, but not too large to travel.
_SMALL = frozenset({bool, int, float, complex, type(None)})
#: Largest pickle: what one field of a msgpack message takes.
_MOST_BYTES = (1 << 32) - 1
#: Longest message of an exception that is kept beside its pickle, in characters.
_MESSAGE_LIMIT = 10_000
#: Characters of a traceback that are kept, at each of its ends: of a deep recursion, or with a message of megabytes.
_TRACE_HALF = 50_000


class _Pickler(pickle.Pickler):
    """The C pickler, which also notes what it met besides plain data."""

    needs_cloudpickle = False
    needs_check = False

    def reducer_override(self, obj: Any) -> Any:
        # Called for everything but plain data: instances, classes and functions.
        # Only classes and functions carry a __module__ of their own; an instance finds that of its class.
        module = getattr(obj, "__module__", None) or type(obj).__module__
        if module == "__main__" or module == "__mp_main__":
            self.needs_cloudpickle = True
        if type(module) is not str or module.partition(".")[0] not in _TRUSTED:
            self.needs_check = True
        return NotImplemented


def encode(obj: Any, what: str = "this value", place: Workplace | None = None) -> Value:
    """Return ``obj`` as a ``Value``.

    Args:
        what: how an error calls it, such as ``"the input 'query'"``.
        place: where it goes if it is large; None if it travels all the same.

    Raises:
        NotPicklableError: it cannot be pickled; the error names the part of it that is to blame.
        StoreError: it is large, and cannot be written where it goes.
    """
    return _Dump(obj, what, place).value()


def encode_checked(obj: Any, what: str, place: Workplace | None = None) -> Value:
    """Like ``encode``, and make sure that it can be unpickled again, so that whoever made it gets the blame.

    Plain data and arrays cannot fail to load and are not loaded a second time.

    Raises:
        NotPicklableError: it cannot be pickled, or not be unpickled.
        StoreError: as ``encode``.
    """
    if type(obj) in _SMALL:
        return Value(pickle.dumps(obj, _PROTOCOL))
    dump = _Dump(obj, what, place)
    if dump.needs_check:
        try:
            pickle.loads(dump.data, buffers=dump.buffers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a class that exits when it is loaded, say
            raise NotPicklableError(
                what,
                f"its pickle cannot be loaded again ({_describe(error)})",
                "Return plain data, or mend the __reduce__ or __init__ of its class.",
            ) from error
    return dump.value()


def decode(value: Value, map_file: Callable[[str], list[memoryview]] = map_value) -> Any:
    """Return the object that ``value`` was made of; whatever its unpickling raises comes through.

    Args:
        map_file: gives the pickle in a file, and its buffers.

    Raises:
        StoreError: the file that has it cannot be read.
    """
    if not value.file:
        return pickle.loads(value.data)
    try:
        data, *buffers = map_file(value.file)
    except OSError as error:
        raise StoreError(
            f"a value cannot be read: {error}. Files beside a store belong to it; put them back, or run the step again."
        ) from error
    return pickle.loads(data, buffers=buffers)


def check_size(data: bytes, what: str) -> bytes:
    """Return ``data``.

    Raises:
        NotPicklableError: it is too large to travel.
    """
    if len(data) > _MOST_BYTES:
        size = f"it is {len(data) / 1e9:.1f} GB large, and at most {_MOST_BYTES / 1e9:.1f} GB can travel"
        raise NotPicklableError(what, size, "Store it and send its path.")
    return data


class _Dump:
    """The pickle of an object.

    Args:
        what, place: as of ``encode``.
    """

    def __init__(self, obj: Any, what: str, place: Workplace | None) -> None:
        self._what = what
        self._place = place if place is not None and place.values is not None else None
        self.needs_check = False  #: whether loading it could fail
        self.buffers: list[memoryview] = []  #: what was left out of it, in order
        self.data = pickle.dumps(obj, _PROTOCOL) if type(obj) in _SCALARS else self._dump(obj)

    def _dump(self, obj: Any) -> bytes:
        leave_out = None if self._place is None else self._leave_out
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, _PROTOCOL, buffer_callback=leave_out)
        try:
            pickler.dump(obj)
            if not pickler.needs_cloudpickle:
                self.needs_check = pickler.needs_check
                return buffer.getvalue()
        except KeyboardInterrupt:
            raise
        except BaseException:  # cloudpickle can do more, and its error is the one to show
            pass
        import cloudpickle  # imported late: most values never need it

        self.needs_check = True
        self.buffers.clear()
        try:
            data: bytes = cloudpickle.dumps(obj, _PROTOCOL, leave_out)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a __reduce__ that exits, say
            advice = "Send plain data, or store the object and send its path."
            raise NotPicklableError(self._what, explain_unpicklable(obj, error), advice) from error
        return data

    def _leave_out(self, buffer: pickle.PickleBuffer) -> bool:
        """Leave a large buffer out of the pickle; return whether it is to be in there."""
        memory = buffer.raw().toreadonly()
        if len(memory) <= LARGE:
            return True
        self.buffers.append(memory)
        return False

    def value(self) -> Value:
        if self._place is not None and (self.buffers or len(self.data) > LARGE):
            return self._place.put([self.data, *self.buffers], self._what)
        return Value(check_size(self.data, self._what))


def explain_unpicklable(obj: Any, error: BaseException) -> str:
    """Say which part of ``obj`` cannot be pickled, as far down as one part alone is to blame."""
    import cloudpickle

    path: list[str] = []
    seen: set[int] = set()
    while id(obj) not in seen and len(path) < 8:
        seen.add(id(obj))
        for name, part in _parts(obj):
            try:
                cloudpickle.dumps(part, _PROTOCOL)
            except KeyboardInterrupt:
                raise
            except BaseException as deeper:
                path.append(name)
                obj, error = part, deeper
                break
        else:
            break
    kind = type(obj).__qualname__ if type(obj).__module__ == "builtins" else type_name(type(obj))
    culprit = f"its {' of its '.join(reversed(path))} is of type {kind}, which" if path else f"a {kind}"
    return f"{culprit} cannot be pickled ({_describe(error)})"


def _parts(obj: Any) -> list[tuple[str, Any]]:
    """Return the named parts that pickling ``obj`` would have to pickle too."""
    parts: list[tuple[str, Any]] = []
    if isinstance(obj, dict):
        return [(f"item {key!r}", part) for key, part in obj.items()]
    if isinstance(obj, list | tuple | set | frozenset):
        return [(f"item {index}", part) for index, part in enumerate(obj)]
    if isinstance(obj, type):
        return [(f"method {name!r}", part) for name, part in vars(obj).items() if hasattr(part, "__code__")]
    if hasattr(obj, "__code__") and hasattr(obj, "__globals__"):
        for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=False):
            try:
                parts.append((f"closure variable {name!r}", cell.cell_contents))
            except ValueError:  # not assigned yet
                continue
        module = obj.__globals__
        parts += [(f"global {name!r}", module[name]) for name in obj.__code__.co_names if name in module]
        return parts
    try:
        state = obj.__getstate__()
    except Exception:
        state = None
    if isinstance(state, tuple) and len(state) == 2 and all(isinstance(s, dict | None) for s in state):
        state = {**(state[0] or {}), **(state[1] or {})}  # of __dict__ and of __slots__
    if isinstance(state, dict):
        parts = [(f"attribute {name!r}", part) for name, part in state.items()]
        parts.append((f"class {type(obj).__qualname__!r}", type(obj)))
    return parts


# -- exceptions -------------------------------------------------------------------------------------------------------


def encode_error(error: BaseException) -> ErrorInfo:
    """Return ``error`` in a form that travels; never raises.

    What cannot be pickled, or not be loaded again, travels as its name, message and traceback.
    """
    names = tuple(map(_printable, type_names(type(error))))
    message = _safe_str(error)
    trace = _cut(_safely(lambda: "".join(traceback.format_exception(error)))) if error.__traceback__ is not None else ""
    try:
        value = encode_checked(error, "the exception")
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        reason = _printable(problem.reason) if isinstance(problem, NotPicklableError) else _describe(problem)
        return ErrorInfo(type_names=names, message=message, traceback=trace, reason=reason)
    return ErrorInfo(type_names=names, message=message, traceback=trace, value=value)


def decode_error(
    info: ErrorInfo, *, step_name: str, instance_id: str | None = None, attempt: int | None = None
) -> BaseException:
    """Return the exception of ``info``, or a ``RemoteStepError`` that stands in for it; never raises.

    Its cause is the traceback it had where it was raised, and a note says where that was, and what was printed there.
    """
    error: BaseException | None = None
    reason = info.reason
    if info.value is not None:
        try:
            loaded = decode(info.value)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:
            reason = f"it cannot be loaded here: {_describe(problem)}"
        else:
            if isinstance(loaded, BaseException):
                error = loaded
            else:
                reason = f"it came back as a {type(loaded).__name__}"
    if error is None:
        error = RemoteStepError(
            step_name=step_name,
            type_name=info.type_names[0] if info.type_names else "an exception",
            original_message=info.message,
            reason=reason,
            instance_id=instance_id,
            attempt=attempt,
        )
    if info.traceback:
        # Not by plain assignment: the class may be frozen.
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(info.traceback))
    if info.note:
        with contextlib.suppress(Exception):  # likewise
            error.add_note(info.note)
    return error


def _safe_str(error: BaseException) -> str:
    return _safely(lambda: str(error))[:_MESSAGE_LIMIT]


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_safe_str(error)[:500]}"


def show(obj: Any) -> str:
    """Return the ``repr`` of an object of the user; if that raises, what it raises is said instead."""
    return _safely(lambda: repr(obj), "__repr__")[:_MESSAGE_LIMIT]


def _safely(call: Callable[[], str], name: str = "__str__") -> str:
    try:
        return _printable(call())
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # a __str__ that raises must not hide the error it belongs to
        return f"<its {name} raised {type(problem).__name__}>"


def _printable(text: str) -> str:
    """Return ``text`` with what is no character, half of a surrogate pair, as an escape: UTF-8 has no form for it."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return str.__str__(text)  # a subclass does not travel


def _cut(trace: str) -> str:
    """Return a traceback without its middle if it is too long to travel; a message may be."""
    if len(trace) <= 2 * _TRACE_HALF:
        return trace
    return f"{trace[:_TRACE_HALF]}\n... {len(trace) - 2 * _TRACE_HALF:,} characters ...\n{trace[-_TRACE_HALF:]}"
