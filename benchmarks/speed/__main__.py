"""``python -m benchmarks.speed``: what a step costs, here and elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks.params import Names
from benchmarks.speed import guard
from benchmarks.speed.hosts import measure_all
from benchmarks.speed.libraries import LIBRARIES
from benchmarks.speed.page import write_page
from benchmarks.speed.results import Results
from benchmarks.speed.tables import as_tables, versions
from benchmarks.speed.works import WORKS


@click.command()
@click.option("--only", type=Names(LIBRARIES), default=list(LIBRARIES), help=f"Libraries: {', '.join(LIBRARIES)}.")
@click.option("--works", type=Names(WORKS), default=list(WORKS), help=f"Works: {', '.join(WORKS)}.")
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Measurements of each.")
@click.option("--quick", is_flag=True, help="Only the works of which there is a small one.")
@click.option(
    "--bound",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds for one measurement, the start of its program included; then it is given up.",
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write what was measured to a file, too.")
@click.option("--from", "source", type=click.Path(path_type=Path, exists=True), help="Measure nothing: read that file.")
@click.option("--page", is_flag=True, help="Write numbers and picture into docs/performance.md.")
@click.option("--guard", "guards", is_flag=True, help="Say what is slower than accepted; exit with 1 if something is.")
@click.option("--accept", is_flag=True, help="Let these ratios be the accepted ones.")
def main(
    only: list[str],
    works: list[str],
    repeat: int,
    quick: bool,
    bound: float,
    file: Path | None,
    source: Path | None,
    page: bool,
    guards: bool,
    accept: bool,
) -> None:
    """Measure each kind of work in each library that is installed, each time in a program of its own."""
    libraries = [LIBRARIES[name] for name in only if LIBRARIES[name].version() is not None]
    kinds = [WORKS[name] for name in works if WORKS[name].is_possible]
    sizes = {kind.name: kind.quick_size if quick else kind.size for kind in kinds}
    kinds = [kind for kind in kinds if sizes[kind.name] is not None]
    if source is not None:
        results = Results.from_plain_data(json.loads(source.read_text()))
    else:
        results = Results()
        with Console(stderr=True).status("") as status:  # shows nothing where there is no terminal
            measure_all(
                results,
                libraries,
                kinds,
                repeat=repeat,
                bound=bound,
                sizes=lambda kind: sizes[kind.name] or kind.size,
                tell=status.update,
            )
    if file is not None:
        file.write_text(json.dumps(results.as_plain_data(), indent=1) + "\n")
    for table in as_tables(results, libraries, kinds):
        Console().print(table)
    print(versions(libraries))
    for (work, library), problem in results.problems.items():
        click.echo(f"{work}, {library}: {problem}", err=True)
    if page:
        if quick or {*only} != {*LIBRARIES} or {*works} != {*WORKS}:
            click.echo("docs/performance.md stays as it is: it shows all works in all libraries.", err=True)
        else:
            write_page(results, libraries, kinds)
    if guards:
        lines, is_fine = guard.compare(results)
        print(*lines, sep="\n")
    if accept:
        guard.accept(results)
        print(f"accepted, in {guard.ACCEPTED}")
    elif guards and not is_fine:
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.speed")
