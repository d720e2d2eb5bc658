"""The inputs of runs, from ``-i NAME=VALUE`` and from files with a JSON object on each line.

What a value becomes follows from the annotation of the parameter that takes it. ``str`` takes a text as it is; any
other text is JSON if it can be, and is then converted: to a ``float``, a ``date``, a ``Path``, a dataclass.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import os
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from fuseline.binding import bind_workflow
from fuseline.cli.app import Nonsense
from fuseline.cli.text import short_repr
from fuseline.errors import UnboundParameterError, UnknownInputError
from fuseline.schema import WorkflowSchema
from fuseline.workflow import Workflow

__all__ = ["Inputs", "read_inputs", "source_name"]

#: What is typed for types whose name does not say it.
_FORMS = {
    datetime.datetime: "2026-03-01T12:30:00",
    datetime.date: "2026-03-01",
    datetime.time: "12:30:00",
    datetime.timedelta: "90, in seconds, or PT1M30S",
}

_Annotations = dict[str, Any]  #: {name of an input: the annotation of the first parameter that takes it}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a command line gives to runs."""

    runs: list[dict[str, Any]]  #: the inputs of each
    places: list[str]  #: where those of each were found: ``"line 3 of runs.jsonl"``; empty if on the command line


def read_inputs(workflow: Workflow, schema: WorkflowSchema, pairs: Sequence[str], lines_from: str | None) -> Inputs:
    """Return the inputs of each run that a command line asks for.

    Args:
        pairs: ``["NAME=VALUE", ...]``, for every run.
        lines_from: a file with the inputs of one run on each line, ``-`` for standard input; None for a single run.

    Raises:
        Nonsense: an input is missing, unknown or does not fit its parameter; a line is no JSON object; the file cannot
            be read.
    """
    annotations = _annotations(workflow, schema)
    common = dict(_from_pairs(pairs, annotations))
    if lines_from is None:
        _check(schema, common, "")
        return Inputs(runs=[common], places=[""])
    runs: list[dict[str, Any]] = []
    places = []
    checked: set[frozenset[str]] = set()
    for number, given in _read_lines(lines_from):
        place = f"line {number} of {source_name(lines_from)}"
        where = f"{place}: "
        inputs = {**common, **{name: _fit(value, name, annotations, where) for name, value in given.items()}}
        if (names := frozenset(inputs)) not in checked:
            _check(schema, names, where)
            checked.add(names)
        runs.append(inputs)
        places.append(place)
    return Inputs(runs=runs, places=places)


def _check(schema: WorkflowSchema, names: Iterable[str], where: str) -> None:
    """Make sure that a run can have inputs of these names.

    Raises:
        Nonsense: one is missing, or is one too many.
    """
    try:
        bind_workflow(schema, names)
    except UnboundParameterError as error:
        how = f"Give it with -i {error.parameter}=VALUE" + (", or on the line." if where else ".")
        raise Nonsense(f"{where}step {error.step_name!r} needs the input {error.parameter!r}. {how}") from error
    except UnknownInputError as error:
        takes = ", ".join(error.known) or "no inputs"
        what = ", ".join(map(repr, error.names))
        raise Nonsense(f"{where}workflow {schema.name!r} has no input {what}. It can take: {takes}.") from error


def _from_pairs(pairs: Iterable[str], annotations: _Annotations) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise Nonsense(f"-i {pair!r} is no input. Write -i NAME=VALUE.")
        if name in seen:
            raise Nonsense(f"-i {name} is given twice. Give it once; for many runs, use --inputs.")
        seen.add(name)
        yield name, _from_text(text, name, annotations)


def _read_lines(source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield number, counted from 1, and object of each line that is not empty."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).expanduser().read_text("utf-8")
        text = text.removeprefix("\ufeff")  # the mark that some programs put in front
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Nonsense(f"{source_name(source)} cannot be read: {why}. Name a file with JSON on each line.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = f"{error.msg}, at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise Nonsense(
                f"line {number} of {source_name(source)} is no JSON ({what}). Mend it; nothing was run."
            ) from error
        if not isinstance(value, dict):
            raise Nonsense(
                f"line {number} of {source_name(source)} is {short_repr(value, 40)}. Each line is an object of inputs, "
                'such as {"path": "a.csv"}; nothing was run.'
            )
        yield number, value


def source_name(source: str) -> str:
    """Return what people call a file of inputs."""
    return "standard input" if source == "-" else source


# -- annotations ------------------------------------------------------------------------------------------------------


def _annotations(workflow: Workflow, schema: WorkflowSchema) -> _Annotations:
    found: _Annotations = {}
    for step in schema.steps:
        function = _function(workflow.steps[step.name])
        for parameter in step.parameters:
            if parameter.depends_on is None and not parameter.variadic and parameter.name not in found:
                annotation = _annotation(function, parameter.name)
                if annotation is not Any:
                    found[parameter.name] = annotation
    return found


def _function(step: Any) -> Any:
    function = step.run_step
    return getattr(function, "__func__", function)


def _annotation(function: Any, name: str) -> Any:
    """Return the annotation of one parameter, or ``Any`` if it has none or it cannot be evaluated here."""
    raw = getattr(function, "__annotations__", {}).get(name, Any)
    try:
        alone = SimpleNamespace(__annotations__={name: raw})  # so that another's, which is wrong, does not matter
        return typing.get_type_hints(alone, getattr(function, "__globals__", {}), include_extras=True)[name]
    except Exception:  # it may name what only type checkers import
        return Any


# -- values -----------------------------------------------------------------------------------------------------------


class _Foreign(Exception):
    """An annotation names a class that nothing is known of."""


def _from_text(text: str, name: str, annotations: _Annotations) -> Any:
    annotation = annotations.get(name, Any)
    if annotation is str:
        return text
    values = [text]
    try:
        values.insert(0, json.loads(text))
    except (ValueError, RecursionError):
        pass
    problems = []
    for value in values:
        try:
            return _convert(value, annotation)
        except (ValueError, TypeError) as error:
            problems.append(str(error))
    raise Nonsense(f"-i {name}={text}: {_misfit(name, text, annotation, problems[0])}")


def _fit(value: Any, name: str, annotations: _Annotations, where: str) -> Any:
    """Return a value of a line of JSON as its parameter takes it."""
    annotation = annotations.get(name, Any)
    try:
        return _convert(value, annotation)
    except (ValueError, TypeError) as error:
        raise Nonsense(f"{where}{_misfit(name, value, annotation, str(error))}") from error


def _misfit(name: str, value: Any, annotation: Any, problem: str) -> str:
    where = f" ({problem})" if " - at " in problem or "field" in problem else ""  # of something within a list, say
    return (
        f"the input {name!r} takes {_typesource_name(annotation)}{_form(annotation)}, which {short_repr(value, 60)} is "
        f"not{where}. Give another value; nothing was run."
    )


def _typesource_name(annotation: Any) -> str:
    name = annotation.__qualname__ if isinstance(annotation, type) and not typing.get_args(annotation) else ""
    return name or str(annotation).replace("typing.", "")


def _form(annotation: Any) -> str:
    """Return what a value of a type looks like, where its name does not say it."""
    for kind in _alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            members = list(kind)
            shown = ", ".join(short_repr(member.value, 40) for member in members[:20])
            return f" (one of {shown}{', …' if len(members) > 20 else ''})"
        if kind in _FORMS:
            return f" (such as {_FORMS[kind]})"
    return ""


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types that ``annotation`` leaves open; of most there is one."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(each for part in typing.get_args(annotation) for each in _alternatives(part))
    return (annotation,)


def _refuse_unknown_fields(value: Any, annotation: Any) -> None:
    """Make sure that objects have no fields but those of the dataclasses that they are for.

    Raises:
        ValueError: one has.
    """
    classes = [kind for kind in _alternatives(annotation) if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    if isinstance(value, dict) and len(classes) == 1 and len(_alternatives(annotation)) <= 2:
        names = [field.name for field in dataclasses.fields(classes[0]) if field.init]
        if unknown := [name for name in value if name not in names]:
            raise ValueError(f"it has no field {unknown[0]!r}; its fields are {', '.join(names)}")
        hints = _hints(classes[0])
        for name, each in value.items():
            _refuse_unknown_fields(each, hints.get(name, Any))
        return
    for kind in _alternatives(annotation):
        arguments = typing.get_args(kind)
        if isinstance(value, list) and len(arguments) == 1:
            for each in value:
                _refuse_unknown_fields(each, arguments[0])
        elif isinstance(value, dict) and len(arguments) == 2:
            for each in value.values():
                _refuse_unknown_fields(each, arguments[1])


def _hints(kind: type) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception:  # it may name what only type checkers import
        return {}


def _from_iso(value: Any, annotation: Any) -> Any:
    """Return a date or a time from a text that Python knows as one, anything else as it is."""
    if isinstance(value, str):
        for kind in _alternatives(annotation):
            if kind in (datetime.datetime, datetime.date, datetime.time):
                try:
                    return kind.fromisoformat(value)
                except ValueError:
                    pass
    return value


def _convert(value: Any, annotation: Any) -> Any:
    """Return ``value`` as ``annotation`` has it; as it is, if nothing is known of a class in there.

    Raises:
        ValueError, TypeError: it does not fit.
    """
    if annotation is Any:
        return value
    value = _from_iso(value, annotation)
    _refuse_unknown_fields(value, annotation)
    try:
        return msgspec.convert(value, annotation, strict=False, dec_hook=_make)
    except _Foreign:
        return value
    except msgspec.ValidationError:
        raise
    except TypeError:  # no annotation that msgspec can make sense of
        return value


def _make(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, os.PathLike):
        if not isinstance(value, str):
            raise TypeError("a path is a text")
        return Path(value) if kind is os.PathLike else kind(value)  # type: ignore[call-arg]
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise _Foreign
