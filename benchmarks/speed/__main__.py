"""``python -m benchmarks.speed``: what a step costs, here and elsewhere."""

from __future__ import annotations

import json
from typing import IO

import click
from rich.console import Console

from benchmarks.params import Names
from benchmarks.speed.hosts import measure_all
from benchmarks.speed.libraries import LIBRARIES
from benchmarks.speed.results import Results
from benchmarks.speed.tables import as_markdown, as_table
from benchmarks.speed.works import WORKS


@click.command()
@click.option("--only", type=Names(LIBRARIES), default=list(LIBRARIES), help=f"Libraries: {', '.join(LIBRARIES)}.")
@click.option("--works", type=Names(WORKS), default=list(WORKS), help=f"Works: {', '.join(WORKS)}.")
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Measurements of each.")
@click.option("--quick", is_flag=True, help="Smaller works.")
@click.option(
    "--bound",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds for one measurement, the start of its program included; then it is given up.",
)
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--json", "file", type=click.File("w", lazy=True), help="Write what was measured to a file, too.")
def main(
    only: list[str], works: list[str], repeat: int, quick: bool, bound: float, markdown: bool, file: IO[str] | None
) -> None:
    """Measure each kind of work in each library that is installed, each time in a program of its own."""
    libraries = [LIBRARIES[name] for name in only if LIBRARIES[name].version() is not None]
    kinds = [WORKS[name] for name in works if WORKS[name].is_possible]
    results = Results()
    with Console(stderr=True).status("") as status:  # shows nothing where there is no terminal
        measure_all(
            results,
            libraries,
            kinds,
            repeat=repeat,
            bound=bound,
            sizes=lambda kind: kind.quick_size if quick else kind.size,
            tell=status.update,
        )
    if markdown:
        print(as_markdown(results, libraries, kinds))
    else:
        Console().print(as_table(results, libraries, kinds))
    for (work, library), problem in results.problems.items():
        click.echo(f"{work}, {library}: {problem}", err=True)
    if file is not None:
        json.dump(results.as_plain_data(), file, indent=2)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.speed")
