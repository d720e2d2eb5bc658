"""Starting a child process through loky, to begin as ``boot`` says."""

from __future__ import annotations

import io
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from multiprocessing import resource_tracker
from typing import Any

from loky.backend import resource_tracker as loky_resource_tracker
from loky.backend.popen_loky_posix import Popen
from loky.backend.process import LokyProcess

from fuseline.processes import boot
from fuseline.processes.safe_path import safe_path, safe_path_environment

__all__ = ["launch"]


def launch(target: Callable[..., None], args: tuple[Any, ...], environment: Mapping[str, str]) -> Any:
    """Start ``target(*args)`` in a new process, and return that as a ``multiprocessing.Process``.

    Ctrl-C waits there until it has left the terminal: before that, it could only make noise.
    """
    # daemon: if this program exits without closing, multiprocessing ends it instead of waiting for it.
    process = _Process(
        target=target,
        args=args,
        daemon=True,
        env={**safe_path_environment(), **environment},
        name="fuseline-child",
    )
    for tracker in (loky_resource_tracker, resource_tracker):  # they unblock the signal when they start
        with safe_path() if tracker._resource_tracker._fd is None else nullcontext():
            tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with redirect_stdout(sys.stdout or io.StringIO()), redirect_stderr(sys.stderr or io.StringIO()):
            process.start()  # flushes both, which a program without a terminal may not have
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


class _Popen(Popen):  # type: ignore[misc]  # loky has no types
    __module__ = boot.__name__  # which is what loky starts with ``python -m``


class _Process(LokyProcess):  # type: ignore[misc]
    @staticmethod
    def _Popen(process: _Process) -> _Popen:  # noqa: N802 - multiprocessing's name for it
        return _Popen(process)

    def __reduce__(self) -> tuple[Any, ...]:
        # Not in loky's way, which is cloudpickle's, and refers to loky.
        return pickle.loads, (pickle.dumps((self._target, self._args)),)
