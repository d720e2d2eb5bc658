"""How processes that run Python begin: with the modules of Python itself, whatever lies in the current directory.

``python -m`` and ``python -c`` put that directory before all others, so that a ``queue.py`` of the user would take the
place of the standard library's until ``sys.path`` is made that of the program. The switch against it is a variable of
the environment, which what steps start must not inherit: a script expects its own directory to be importable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["leave_safe_path", "safe_path", "safe_path_environment"]

_NAME = "PYTHONSAFEPATH"
_OURS = "fuseline"  #: any text will do; this one is not the user's


def safe_path_environment() -> dict[str, str]:
    """Return what a new process needs in its environment."""
    return {} if _NAME in os.environ else {_NAME: _OURS}


def leave_safe_path() -> None:
    """Let what this process starts begin as usual. Called once in it."""
    if os.environ.get(_NAME) == _OURS:
        del os.environ[_NAME]


@contextmanager
def safe_path() -> Iterator[None]:
    """Let processes begin like this whose environment is not in our hands. Short: other threads see it, too."""
    os.environ.update(safe_path_environment())
    try:
        yield
    finally:
        leave_safe_path()
