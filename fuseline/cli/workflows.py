"""Finding the workflow that ``MODULE:WORKFLOW`` names.

A module is found as ``import`` would find it, with the current directory in front; a path ``dir/pipeline.py`` is made
importable under the name ``pipeline``, because child processes import the classes of steps by the name of their module.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fuseline.cli.app import Nonsense
from fuseline.cli.text import a
from fuseline.workflow import Workflow

__all__ = ["find_workflow", "find_workflows"]


def find_workflow(target: str) -> Workflow:
    """Return the workflow that ``target``, as in ``pipeline.py:etl``, names.

    Raises:
        Nonsense: there is no such module or workflow, or the module cannot be imported.
    """
    place, name = _split(target)
    module = _import_place(place)
    if not name:
        return _only_workflow(module, place)
    try:
        found = getattr(module, name)
    except AttributeError:
        raise Nonsense(f"{place} has no workflow {name!r}; {_list(module)}.") from None
    if isinstance(found, Workflow):
        return found
    if callable(found) and not isinstance(found, type):
        return _call(found, place, name)
    raise Nonsense(f"{place}:{name} is no workflow, but of type {type(found).__name__}; {_list(module)}.")


def find_workflows(target: str) -> list[Workflow]:
    """Return the workflow that ``target`` names, or all of a module if it names none.

    Raises:
        Nonsense: there is no such module or workflow, or the module cannot be imported.
    """
    place, name = _split(target)
    if name or not (found := _candidates(_import_place(place))):
        return [find_workflow(target)]
    workflows: dict[tuple[str, str], Workflow] = {}  # a function may make one that is there, too
    for each, value in found.items():
        workflow = value if isinstance(value, Workflow) else _call(value, place, each)
        schema = workflow.to_schema()
        workflows.setdefault((schema.workflow_id, schema.fingerprint), workflow)
    return list(workflows.values())


def _split(target: str) -> tuple[str, str]:
    """Return module and workflow; the latter is empty if none is named."""
    if ":" not in target or (target.endswith(".py") and Path(target).is_file()):
        return target, ""
    place, _, name = target.rpartition(":")
    return place, name


# -- modules ----------------------------------------------------------------------------------------------------------


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _import_place(place: str) -> ModuleType:
    return _import_path(place) if _is_path(place) else _import_name(place)


def _import_path(place: str) -> ModuleType:
    path = Path(place).expanduser().absolute()
    if not path.is_file():
        raise Nonsense(f"there is no file {place!r}. Give the path of a Python file, or the name of a module.")
    if path.suffix != ".py":
        raise _no_python(place)
    folder, name = path.parent, path.stem
    while (folder / "__init__.py").is_file():  # a module of a package has the package in its name
        folder, name = folder.parent, f"{folder.name}.{name}"
    _make_importable(folder)
    module = _import(name, place)
    origin = getattr(module, "__file__", None)
    if origin is None or not os.path.samefile(origin, path):
        raise Nonsense(f"{place} cannot be imported, because {name!r} is the name of another module. Rename the file.")
    return module


def _import_name(name: str) -> ModuleType:
    _make_importable(Path.cwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise Nonsense(f"{name!r} names no module. Write MODULE:WORKFLOW, such as pipeline.py:etl or package.etl:etl.")
    return _import(name, name)


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if Path(name).is_file():
            raise _no_python(name) from error
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = f" Is {name}.py meant?" if Path(f"{name}.py").is_file() else ""
            raise Nonsense(
                f"there is no module {error.name!r} in this directory or where Python looks for modules.{hint} "
                "Give a name such as package.module, or a path such as pipeline.py."
            ) from error
        raise _broken(f"{place} cannot be imported", error) from error
    except BaseException as error:  # a script may exit, too
        raise _broken(f"{place} cannot be imported", error) from error


def _no_python(place: str) -> Nonsense:
    return Nonsense(f"{place} is no Python file, because its name does not end in .py. Rename it, or name another.")


def _broken(what: str, error: BaseException) -> Nonsense:
    """Return the complaint about an error in the user's module, with the place where it happened."""
    kind = type(error).__name__
    message = " ".join(str(error).split("\n"))
    if isinstance(error, SyntaxError) and error.filename:
        message = error.msg
        place: tuple[str, int | None] | None = (error.filename, error.lineno)
    else:
        place = _users_place(error)
    where = f" ({_relative(place[0])}, line {place[1]})" if place else ""
    return Nonsense(f"{what}: {kind}{f': {message}' if message else ''}{where}. Mend that, and try again.")


def _users_place(error: BaseException) -> tuple[str, int | None] | None:
    """Return file and line of the innermost frame that is the user's, else of the innermost."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    frames = [f for f in frames if f.filename not in (__file__, importlib.__file__)]
    foreign = (str(Path(__file__).parents[1]), *(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    stdlib = sysconfig.get_path("stdlib")
    own = [f for f in frames if not f.filename.startswith((*foreign, stdlib))]
    best = own or frames
    return (best[-1].filename, best[-1].lineno) if best else None


def _relative(filename: str) -> str:
    short = os.path.relpath(filename)
    return filename if short.startswith("..") else short


# -- what is in them --------------------------------------------------------------------------------------------------


def _call(function: Callable[..., Any], place: str, name: str) -> Workflow:
    if not _takes_nothing(function):
        raise Nonsense(f"{place}:{name} needs arguments. Name a workflow, or a function without parameters.")
    try:
        made = function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _broken(f"{place}:{name} could not be made", error) from error
    if not isinstance(made, Workflow):
        raise Nonsense(f"{place}:{name}() returned {a(type(made).__name__)} and no workflow. Let it return one.")
    return made


def _only_workflow(module: ModuleType, place: str) -> Workflow:
    found = _candidates(module)
    if len(found) != 1:
        raise Nonsense(f"name the workflow: {place} has no single one; {_list(module)}.")
    [(name, value)] = found.items()
    return value if isinstance(value, Workflow) else _call(value, place, name)


def _list(module: ModuleType) -> str:
    names = list(_candidates(module))
    if not names:
        return "it has none at its top level, and no function annotated '-> Workflow'"
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"


def _candidates(module: ModuleType) -> dict[str, Workflow | Callable[..., Any]]:
    """Return the workflows of a module by name, each once; if it has none, the functions that say they make one."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    workflows: dict[int, tuple[str, Workflow]] = {}
    for name, value in public.items():
        if isinstance(value, Workflow):
            workflows.setdefault(id(value), (name, value))
    makers = {name: value for name, value in public.items() if _makes_workflow(value) and _takes_nothing(value)}
    return {**dict(workflows.values()), **makers}


def _makes_workflow(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    returned = value.__annotations__.get("return")
    return returned is Workflow or returned in ("Workflow", "fuseline.Workflow")


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
