"""Where the command writes: its standard streams, and what of them is for results alone."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = [
    "STDOUT",
    "fresh",
    "open_what_is_closed",
    "stdout_for_results",
    "swallow_rest",
    "takes_more",
    "warn_on_fresh_lines",
]

#: The name of the stream in errors.
STDOUT = "standard output"


def fresh(stream: TextIO) -> str:
    """Return what clears the line of a terminal that ``^C`` may be on; nothing for another stream."""
    return "\r\x1b[K" if stream.isatty() and os.environ.get("TERM") not in (None, "dumb", "unknown") else ""


def warn_on_fresh_lines() -> None:
    """Let the warnings of fuseline begin a line of their own, if nobody has said where they go."""
    log = logging.getLogger("fuseline")
    if fresh(sys.stderr) and not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"{fresh(sys.stderr)}%(message)s"))
        log.addHandler(handler)


def takes_more(stream: TextIO) -> bool:
    """Return whether a line can be written to a stream; it is an empty one."""
    try:
        stream.write("\n")
        stream.flush()
    except OSError:
        return False
    return True


def swallow_rest(*streams: TextIO) -> None:
    """Let what those streams hold whose reader has gone be written to nowhere: Python flushes them at its end."""
    for stream in streams:
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_what_is_closed() -> None:
    """Give the command streams that swallow everything, where it was started without any.

    The descriptors are opened, too: the next file or socket would get their numbers, and all that children print.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)  # gets the number, which is the lowest that is free
            os.set_inheritable(opened, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process


@contextmanager
def stdout_for_results(*, alone: bool) -> Iterator[TextIO]:
    """Return what results are written to: standard output.

    Args:
        alone: whether nothing else may come there. What modules and steps print, children included, goes to standard
            error until the end of the block.
    """
    if not alone:
        yield sys.stdout
        return
    usual = sys.stdout
    usual.flush()
    kept = os.dup(1)  # not inherited
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    results: TextIO = usual
    if isinstance(usual, io.TextIOWrapper) and _is_descriptor_1(usual):
        results = open(os.dup(kept), "w", encoding=usual.encoding, errors=usual.errors)  # noqa: SIM115 - closed below
    try:
        yield results
    finally:
        sys.stdout = usual
        os.dup2(kept, 1)
        os.close(kept)
        if results is not usual:
            try:
                results.close()
            except OSError as error:
                error.filename = STDOUT
                raise


def _is_descriptor_1(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except OSError:  # it is none of a file
        return False
