"""Backends that run assignments: ``base`` is the contract, each other module one backend.

A backend is found by its name here, or under the entry-point group ``fuseline.executors``, and imported only when it is
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fuseline.errors import UnknownExecutorError, WorkflowError
from fuseline.executors.base import Executor

if TYPE_CHECKING:
    from fuseline.executors.inline import InlineExecutor
    from fuseline.executors.loky import LokyExecutor
    from fuseline.executors.threads import ThreadsExecutor

__all__ = [
    "Executor",
    "InlineExecutor",
    "LokyExecutor",
    "ThreadsExecutor",
    "executor_class",
    "make_executor",
]

_BUILT_IN = {
    "inline": ("fuseline.executors.inline", "InlineExecutor"),
    "threads": ("fuseline.executors.threads", "ThreadsExecutor"),
    "loky": ("fuseline.executors.loky", "LokyExecutor"),
}
_GROUP = "fuseline.executors"


def executor_class(executor: str | Executor) -> type[Executor]:
    """Return the class of an executor given by name or as an instance.

    Raises:
        UnknownExecutorError: nothing is registered under the name.
        WorkflowError: what is registered, or was given, is no executor.
    """
    if isinstance(executor, Executor):
        return type(executor)
    if not isinstance(executor, str):
        raise WorkflowError(f"an executor is a name or an instance of Executor, not {executor!r}.")
    if executor in _BUILT_IN:
        module, name = _BUILT_IN[executor]
        found: Any = getattr(importlib.import_module(module), name)
        return _check(executor, found)
    from importlib.metadata import entry_points

    registered = {entry.name: entry for entry in entry_points(group=_GROUP)}
    if executor not in registered:
        raise UnknownExecutorError(executor, [*_BUILT_IN, *registered])
    return _check(executor, registered[executor].load())


def make_executor(executor: str | Executor, processes: int | None) -> Executor:
    """Return an executor given by name or as an instance.

    Args:
        processes: slots of one that is made here; None for its default. An instance has its own.

    Raises:
        UnknownExecutorError, WorkflowError: see ``executor_class``.
    """
    return executor if isinstance(executor, Executor) else executor_class(executor)(processes)


def _check(name: str, found: Any) -> type[Executor]:
    if not (isinstance(found, type) and issubclass(found, Executor)):
        raise WorkflowError(f"what is registered as executor {name!r} is no subclass of Executor: {found!r}.")
    return found


def __getattr__(name: str) -> Any:
    for module, cls in _BUILT_IN.values():
        if cls == name:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
