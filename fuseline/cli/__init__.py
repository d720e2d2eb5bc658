"""The ``fuseline`` command.

Exit codes: 0 all went well, 1 something did not, 2 the command line makes no sense, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fuseline import __version__

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the arguments, without the name of the program; default is those of this process.

    Raises:
        SystemExit: after ``--help`` or ``--version``, or with code 2 for a command line that makes no sense.
    """
    arguments = _make_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be anything
    try:
        from fuseline.cli.demo import run_demo  # imported late, so that --help and --version answer at once

        code = run_demo(
            path=arguments.path,
            processes=arguments.processes,
            limit=arguments.limit,
            hostile=arguments.hostile,
        )
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nfuseline: ended by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    except OSError as error:
        print(f"fuseline: {error}", file=sys.stderr)
        return 1
    return code


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fuseline",
        description="Runs CPU-heavy, multi-step pipelines on one machine: kills what hangs, contains what crashes, "
        "retries what fails.",
        epilog="Try 'fuseline demo', and 'fuseline demo --hostile'.",
    )
    parser.add_argument("--version", action="version", version=f"fuseline {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="measure the source of Python's standard library on all cores",
        description="Measures every source file of this Python's standard library with a workflow of five steps, on "
        "all cores, and with the same functions in a plain loop, by turns, and compares. Takes about a minute.",
        epilog="In a hurry: fuseline demo --limit 200. On your own code: fuseline demo --path ~/project.",
    )
    demo.add_argument("--hostile", action="store_true", help="add three steps that hang, crash, and fail at first")
    demo.add_argument("--processes", type=_count, metavar="N", help="child processes (default: the usable CPUs)")
    demo.add_argument("--limit", type=_count, metavar="N", help="measure only N files, taken evenly from all sizes")
    demo.add_argument("--path", type=_existing, metavar="PATH", help="a file or directory to measure instead")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _existing(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no file or directory {text!r}")
    return path
