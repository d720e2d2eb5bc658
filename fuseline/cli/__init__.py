"""The ``fuseline`` command.

``commands`` is what can be typed; ``work``, ``look``, ``care``, ``doctor`` and ``demo`` are what is done then, each
imported only when it is needed; ``app`` is what an error looks like. Exit codes: 0 all went well, 1 something failed,
2 the command line makes no sense, 130 and 143 ended by Ctrl-C and SIGTERM, 141 nobody reads the output any more.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the arguments, without the name of the program; default is those of this process.
    """
    from fuseline.cli.streams import open_what_is_closed

    open_what_is_closed()  # before anything else opens a file
    from fuseline.cli.app import run_app
    from fuseline.cli.commands import fuseline_command

    return run_app(fuseline_command, argv)
