"""Where people read what a command says."""

from __future__ import annotations

import sys

from rich.console import Console

__all__ = ["make_console"]

#: Columns where there is no terminal: nothing is cut for a file or another program.
_ENDLESS = 100_000


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that takes text as it is: brackets are no markup, and numbers get no colours."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _ENDLESS
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)
