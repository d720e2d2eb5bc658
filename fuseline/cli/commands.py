"""What can be typed: the commands, their arguments and options. What they do is imported when it is needed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import click

from fuseline import __version__
from fuseline.cli.params import (
    AGE,
    COUNT,
    EXISTING,
    PROCESSES,
    STATE,
    executor_option,
    inputs_options,
    json_option,
    store_option,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["fuseline_command"]

_EPILOG = """\b
Exit codes:
  0    all went well
  1    something failed: a run, or the command itself
  2    the command line makes no sense: an input that does not fit,
       no such workflow, a module that cannot be imported
  130  ended by Ctrl-C        143  ended by SIGTERM
  141  nobody reads the output any more

\b
Examples:
  fuseline run pipeline.py:etl -i path=data.csv
  fuseline runs --state failed
"""

#: Columns of the help: those of the terminal, but for two.
_WIDTH = max(30, min(100, shutil.get_terminal_size().columns) - 2)
_CONTEXT = {"help_option_names": ["-h", "--help"], "terminal_width": _WIDTH}


class _InOrder(click.Group):
    """Lists its commands in the order in which they are needed; ``help COMMAND`` is ``COMMAND --help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] == "help":
            args = [*args[1:2], "--help"]
        return super().parse_args(ctx, args)


@click.group(
    cls=_InOrder,
    context_settings=_CONTEXT,
    epilog=_EPILOG,
    subcommand_metavar="COMMAND [ARGUMENTS]",
)
@click.version_option(__version__, message="fuseline %(version)s")
def fuseline_command() -> None:
    """Run CPU-heavy, multi-step pipelines on one machine: what hangs is killed, what crashes is contained, what fails
    is retried, and what was done is kept in a store.

    RUN is the id of a run, or the beginning of one. MODULE is a module or the path of its file, WORKFLOW a Workflow in
    it, or a function that returns one; it may be left out if there is only one.
    """


def _example(*lines: str) -> str:
    return "\b\n" + "\n".join([f"Example{'s' if len(lines) > 1 else ''}:", *(f"  {line}" for line in lines)])


# -- getting runs done ------------------------------------------------------------------------------------------------


@fuseline_command.command(
    epilog=_example(
        "fuseline run pipeline.py:etl -i path=data.csv -i limit=100",
        "fuseline run pipeline.py:etl --inputs runs.jsonl -p 4 --json",
    )
)
@click.argument("target", metavar="MODULE:WORKFLOW")
@inputs_options
@executor_option
@store_option
@json_option
def run(**given: Any) -> int:
    """Run a workflow here and print its result.

    The run is kept in the store. Ctrl-C finishes the steps that run, twice kills them; the rest can be resumed.
    """
    from fuseline.cli.work import run_here

    return run_here(**given)


@fuseline_command.command(epilog=_example("fuseline dispatch pipeline.py:etl --inputs runs.jsonl --wait"))
@click.argument("target", metavar="MODULE:WORKFLOW")
@inputs_options
@click.option("--wait", is_flag=True, help="Wait until the runs have ended, and print their results.")
@store_option
@json_option
def dispatch(**given: Any) -> int:
    """Put runs into the store, for workers to take.

    Prints their ids.
    """
    from fuseline.cli.work import dispatch_runs

    return dispatch_runs(**given)


@fuseline_command.command(
    epilog=_example(
        "fuseline worker pipeline.py:etl train.py:model -p 8",
        "fuseline worker pipeline.py --until-done",
    )
)
@click.argument("targets", metavar="MODULE:WORKFLOW ...", nargs=-1, required=True)
@executor_option
@click.option("--until-done", is_flag=True, help="End when no run is left that it could work on.")
@click.option("-v", "--verbose", is_flag=True, help="Name each run that ends, not only those that fail.")
@store_option
def worker(**given: Any) -> int:
    """Work on all runs of some workflows.

    Goes on until Ctrl-C or SIGTERM: once finishes the steps that run, twice kills them.
    """
    from fuseline.cli.work import serve_workflows

    return serve_workflows(**given)


@fuseline_command.command(
    epilog=_example("fuseline resume 3f2a pipeline.py:etl", "fuseline resume 3f2a --store runs.db")
)
@click.argument("prefix", metavar="RUN")
@click.argument("target", metavar="[MODULE:WORKFLOW]", required=False)
@click.option("--changed", is_flag=True, help="Even if the workflow has changed since then.")
@executor_option
@store_option
@json_option
def resume(**given: Any) -> int:
    """Go on with a run that failed or was stopped.

    What has succeeded is not done again. With a workflow, works on it here, as 'fuseline run' does. Without, leaves it
    to a worker.
    """
    from fuseline.cli.work import resume_run

    return resume_run(**given)


# -- looking ----------------------------------------------------------------------------------------------------------


@fuseline_command.command(epilog=_example("fuseline runs --state failed -n 50", "fuseline runs --json | jq .run"))
@click.option(
    "--state",
    type=STATE,
    metavar="STATE",
    help="Only runs in this state: pending, running, succeeded, failed or cancelled.",
)
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("-n", "count", type=COUNT, metavar="N", default=20, show_default=True, help="At most so many.")
@store_option
@json_option
def runs(**given: Any) -> int:
    """List the newest runs."""
    from fuseline.cli.look import list_runs

    return list_runs(**given)


@fuseline_command.command(epilog=_example("fuseline show 3f2a", "fuseline show 3f2a Load"))
@click.argument("prefix", metavar="RUN")
@click.argument("step", metavar="[STEP]", required=False)
@store_option
@json_option
def show(**given: Any) -> int:
    """Show how a run and its steps stand.

    Or one step, with the whole traceback of its error.
    """
    from fuseline.cli.look import show_run

    return show_run(**given)


@fuseline_command.command(epilog=_example("fuseline story 3f2a", "fuseline story 3f2a Load"))
@click.argument("prefix", metavar="RUN")
@click.argument("step", metavar="[STEP]", required=False)
@store_option
@json_option
def story(**given: Any) -> int:
    """Tell all that happened to a run, or to one of its steps."""
    from fuseline.cli.look import tell_story

    return tell_story(**given)


# -- looking after ----------------------------------------------------------------------------------------------------


@fuseline_command.command(epilog=_example("fuseline cancel 3f2a", "fuseline cancel --workflow etl"))
@click.argument("prefix", metavar="RUN", required=False)
@click.argument("step", metavar="[STEP]", required=False)
@click.option("--workflow", metavar="NAME", help="All runs of this workflow that have not ended.")
@store_option
def cancel(**given: Any) -> int:
    """Stop a run, or one step of it.

    What runs is killed, where the executor can.
    """
    from fuseline.cli.care import cancel_run

    return cancel_run(**given)


@fuseline_command.command(epilog=_example("fuseline migrate pipeline.py:etl"))
@click.argument("target", metavar="MODULE:WORKFLOW")
@store_option
def migrate(**given: Any) -> int:
    """Let runs that wait go on with a changed workflow.

    Needed when steps, edges, parameters or policies have changed while runs of the workflow had not ended. What has
    succeeded of them is not done again.
    """
    from fuseline.cli.care import migrate_runs

    return migrate_runs(**given)


@fuseline_command.command(epilog=_example("fuseline prune --older-than 30d", "fuseline prune --keep 1000"))
@click.option("--older-than", type=AGE, metavar="AGE", help="Remove runs that ended longer ago: 30d, 12h, 90m, 3600.")
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Keep only the newest N of those that ended.")
@store_option
def prune(**given: Any) -> int:
    """Remove runs that have ended from the store."""
    from fuseline.cli.care import prune_runs

    return prune_runs(**given)


@fuseline_command.command(epilog=_example("fuseline broker --keep-for 30d"))
@click.option(
    "--durability",
    type=click.Choice(["power", "process"]),
    default="power",
    show_default=True,
    help="What runs survive: a power cut, or the end of any process.",
)
@click.option("--keep-for", type=AGE, metavar="AGE", help="Remove runs that ended longer ago: 30d, 12h, 90m, 3600.")
@click.option("--keep-runs", type=COUNT, metavar="N", help="Keep only the newest N of those that ended.")
@store_option
def broker(**given: Any) -> int:
    """Keep the broker of a store in the foreground.

    Goes on until Ctrl-C or SIGTERM. Not needed as a rule: the first command that wants a broker starts one, and it ends
    with the last.
    """
    from fuseline.cli.care import keep_broker

    return keep_broker(**given)


@fuseline_command.command(epilog=_example("fuseline doctor --store runs.db"))
@store_option
@json_option
def doctor(**given: Any) -> int:
    """Check this machine and the store.

    Says what is wrong, and what to do about it.
    """
    from fuseline.cli.doctor import examine

    return examine(**given)


@fuseline_command.command(
    epilog=_example("fuseline demo --limit 200", "fuseline demo --hostile", "fuseline demo --path ~/project")
)
@click.option("--hostile", is_flag=True, help="Add three steps that hang, crash, and fail at first.")
@click.option("--processes", type=PROCESSES, metavar="N", help="Child processes [default: the usable CPUs].")
@click.option("--limit", type=COUNT, metavar="N", help="Measure only N files, taken evenly from all sizes.")
@click.option("--path", type=EXISTING, metavar="PATH", help="A file or directory to measure instead.")
def demo(path: Path | None, processes: int | None, limit: int | None, hostile: bool) -> int:
    """Measure the source of Python's standard library on all cores.

    Measures every file with a workflow of five steps, on all cores, and with the same functions in a plain loop, by
    turns, and compares. Takes about a minute.
    """
    from fuseline.cli.demo import run_demo

    return run_demo(path=path, processes=processes, limit=limit, hostile=hostile)
