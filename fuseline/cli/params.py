"""What can be given to options, and the options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fuseline.cli.times import parse_age

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AGE",
    "COUNT",
    "EXISTING",
    "PROCESSES",
    "STATE",
    "executor_option",
    "inputs_options",
    "json_option",
    "store_option",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Count(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A whole number of 1 or more.

    Args:
        most: the largest that makes sense.
    """

    name = "n"

    def __init__(self, most: int | None = None) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"{text!r} is not a whole number of 1 or more.", param, ctx)
        if self._most is not None and int(text) > self._most:
            self.fail(f"{text} is too many. Give {self._most:,} at most.", param, ctx)
        return int(text)


class Age(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A span of time, in seconds once it is converted."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_age(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Existing(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A file or directory that is there."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from pathlib import Path  # imported late: --help has no need of it

        path = Path(value).expanduser()
        if not path.exists():
            self.fail(f"there is no file or directory {str(value)!r}.", param, ctx)
        return path


COUNT = Count()
PROCESSES = Count(1024)
AGE = Age()
EXISTING = Existing()
STATE = click.Choice(["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"], case_sensitive=False)

store_option = click.option(
    "--store",
    metavar="PATH",
    envvar="FUSELINE_STORE",
    help="The file with the runs [default: that of this user, or $FUSELINE_STORE].",
)
json_option = click.option("--json", "use_json", is_flag=True, help="Print JSON, an object on each line.")
processes_option = click.option(
    "-p", "--processes", type=PROCESSES, metavar="N", help="Steps that run at a time [default: the usable CPUs]."
)


def executor_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about where steps run."""
    option = click.option(
        "--executor",
        metavar="NAME",
        help="Where steps run: loky, threads, inline, … [default: as the workflow says, or loky].",
    )
    return processes_option(option(function))


def inputs_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about the inputs of runs."""
    pairs = click.option(
        "-i",
        "--input",
        "pairs",
        multiple=True,
        metavar="NAME=VALUE",
        help="An input: text, or JSON, as the annotation of its parameter has it. May be repeated.",
    )
    lines = click.option(
        "--inputs",
        "lines_from",
        metavar="FILE",
        help="Many runs: a JSON object of inputs on each line of FILE ('-': standard input).",
    )
    return pairs(lines(function))
