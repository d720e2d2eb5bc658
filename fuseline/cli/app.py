"""What all commands have in common: what an error looks like, and which exit code it gives.

An error is one sentence on standard error, without a traceback. What is no error of the user, of his steps or of his
machine is a bug, and comes through as Python prints it.
"""

from __future__ import annotations

import errno
import io
import shlex
import signal
import sys
from collections.abc import Sequence

import click

from fuseline.cli.streams import STDOUT, swallow_rest, takes_more
from fuseline.cli.text import printable
from fuseline.errors import (
    FuselineError,
    UnboundParameterError,
    UnknownExecutorError,
    UnknownInputError,
    UnsupportedPolicyError,
    WorkflowChangedError,
)

__all__ = ["Nonsense", "Problem", "complain", "run_app"]

#: Errors that are about what was typed, not about what became of it.
_NONSENSE = (UnknownInputError, UnboundParameterError, UnknownExecutorError, UnsupportedPolicyError)

#: The exit code if nobody reads the output any more: that of a program which SIGPIPE has ended.
_NO_READER = 128 + signal.SIGPIPE


class Problem(click.ClickException):
    """Something failed; the command ends with code 1."""

    exit_code = 1


class Nonsense(Problem):
    """The command line makes no sense; the command ends with code 2."""

    exit_code = 2


def complain(message: str) -> None:
    """Say on standard error what went wrong."""
    click.echo(f"fuseline: {printable(message)}", err=True)


def run_app(app: click.Command, argv: Sequence[str] | None) -> int:
    """Run a command line and return the exit code; print what went wrong."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be anything
    streams = sys.stdout, sys.stderr
    try:
        return _run(app, argv)
    except BrokenPipeError:  # whoever read the output, such as `head`, has read enough
        pass
    except SystemExit as end:  # by SIGTERM, or because click or rich have met such a pipe
        if not isinstance(end.__context__, BrokenPipeError) and sys.stdout is streams[0]:
            return end.code if isinstance(end.code, int) else 1
    sys.stdout, sys.stderr = streams
    swallow_rest(*streams)
    return _NO_READER


def _run(app: click.Command, argv: Sequence[str] | None) -> int:
    try:
        code = app.main(argv, prog_name="fuseline", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        complain("ended by Ctrl-C")
        return 130
    except click.UsageError as error:
        complain(_usage(error))
        return 2
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except BrokenPipeError:
        raise
    except WorkflowChangedError as error:
        complain(_changed(error))
        return 1
    except (FuselineError, OSError) as error:
        complain(_cannot_write(error) if isinstance(error, OSError) else str(error))
        return 2 if isinstance(error, _NONSENSE) else 1
    return code if isinstance(code, int) else 0


def _cannot_write(error: OSError) -> str:
    """Return what is wrong with a file, or with standard output, whose errors have no name in them."""
    nameless = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    if error.filename == STDOUT or (nameless and not takes_more(sys.stdout)):
        return f"standard output cannot be written: {error.strerror}."
    return str(error)


def _changed(error: WorkflowChangedError) -> str:
    """Return what is in the way of a changed workflow, and the commands that clear it."""
    if error.workers or not error.runs:
        return str(error)
    name = error.workflow_id
    runs = f"run {error.runs[0]} waits" if len(error.runs) == 1 else f"{len(error.runs):,} runs wait"
    return (
        f"{runs} in this store for another version of workflow {name!r}. Go on with this one by 'fuseline migrate "
        f"MODULE:WORKFLOW', or end what waits by 'fuseline cancel --workflow {shlex.quote(name)}'. Where it is another "
        "project's, use another --store."
    )


def _usage(error: click.UsageError) -> str:
    """Return what is wrong with a command line and where to read how it is meant."""
    if error.ctx is None:
        return error.format_message()
    return f"{error.format_message()} Try '{error.ctx.command_path} --help'."
