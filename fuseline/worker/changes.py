"""Notes that a function was called which changes the process: to look at all that it could have changed takes longer
than most short attempts do.

Python code calls such a function as an attribute of its module, and there it finds one that takes a note first.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what the Python code of ``signal`` calls
import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

__all__ = ["Changes"]

_OF_OS = ("chdir", "fchdir", "dup2", "umask", "putenv", "unsetenv")
_OF_SIGNAL = ("alarm", "pthread_sigmask", "setitimer")


class Changes:
    """Of this process, since somebody has set ``seen`` to False. C code that goes another way is not noticed."""

    seen = True
    _is_watched = False

    @classmethod
    def watch(cls) -> None:
        """Begin to take notes, for as long as the process lives. May be called twice."""
        if cls._is_watched:
            return
        cls._is_watched = True
        for name in _OF_OS:
            setattr(os, name, cls._noted(getattr(os, name)))
        _signal.signal = cls._noted(_signal.signal)
        for name in _OF_SIGNAL:
            for module in (_signal, signal):
                setattr(module, name, cls._noted(getattr(module, name)))

    @classmethod
    def _noted(cls, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            cls.seen = True
            return function(*args, **kwargs)

        return call
