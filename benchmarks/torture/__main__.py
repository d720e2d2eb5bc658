"""``python -m benchmarks.torture``: how process pools bear one hostile step among good ones."""

from __future__ import annotations

import json
import sys
from typing import IO

import click
from rich.console import Console

from benchmarks.params import Names
from benchmarks.torture.hosts import run_case
from benchmarks.torture.libraries import LIBRARIES
from benchmarks.torture.steps import HOSTILE, ORPHANS
from benchmarks.torture.tables import Results

_STEPS = [*HOSTILE, ORPHANS]


@click.command()
@click.option("--only", type=Names(LIBRARIES), default=list(LIBRARIES), help=f"Libraries: {', '.join(LIBRARIES)}.")
@click.option("--steps", type=Names(dict.fromkeys(_STEPS)), default=_STEPS, help=f"Steps: {', '.join(_STEPS)}.")
@click.option(
    "--bound",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds for one step in one library, the start of its program included; then it hangs.",
)
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--json", "file", type=click.File("w", lazy=True), help="Write what was seen to a file, too.")
def main(only: list[str], steps: list[str], bound: float, markdown: bool, file: IO[str] | None) -> None:
    """Run each hostile step among good ones, in each library that is installed; each pair in a program of its own.

    Contained means that the siblings return their values, and the hostile step ends as an ordinary exception; of a
    fork, the parent's value counts. The exit code is 1 if fuseline does not contain all, or leaves a process behind.
    """
    results = Results(libraries=[LIBRARIES[name] for name in only], steps=steps)
    _fill(results, bound)
    if markdown:
        print(results.as_markdown())
    else:
        Console().print(results.as_table())
    if file is not None:
        json.dump(results.as_plain_data(), file, indent=2)
    sys.exit(0 if "fuseline" not in only or results.is_all_good("fuseline") else 1)


def _fill(results: Results, bound: float) -> None:
    with Console(stderr=True).status("") as status:  # shows nothing where there is no terminal
        for library in results.libraries:
            for step in results.steps if library.version() is not None else ():
                status.update(f"{library.name}: {step}")
                results.verdicts[library.name, step] = run_case(library, step, bound)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.torture")
