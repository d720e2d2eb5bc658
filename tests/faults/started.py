"""What a test has started, and nobody has ended."""

from __future__ import annotations

import os

import psutil

#: Which of the processes that run tests side by side this is; what it starts inherits it.
_WORKER = "PYTEST_XDIST_WORKER"


def started_since(before: set[int], text: str) -> list[list[str]]:
    """Return the command lines with ``text`` in them of processes that were started since these were all."""
    lines = [_command_of_ours(process) for process in psutil.process_iter() if process.pid not in before]
    return [line for line in lines if text in " ".join(line)]


def _command_of_ours(process: psutil.Process) -> list[str]:
    try:
        is_ours = process.environ().get(_WORKER) == os.environ.get(_WORKER)
        return process.cmdline() if is_ours else []
    except psutil.Error:
        return []
