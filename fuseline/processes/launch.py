"""Starting a child process through loky, to begin as ``boot`` says."""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext, redirect_stderr, redirect_stdout, suppress
from multiprocessing import resource_tracker, util
from multiprocessing.context import set_spawning_popen
from typing import Any

from loky.backend import resource_tracker as loky_resource_tracker
from loky.backend import spawn
from loky.backend.fork_exec import fork_exec
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
    def _launch(self, process: Any) -> None:
        """Start the process, as loky's method of this name does, but for the program in it."""
        preparation = spawn.get_preparation_data(process.name, init_main_module=False)
        set_spawning_popen(self)  # for descriptors among the arguments
        try:
            message = pickle.dumps(preparation) + pickle.dumps((process._target, process._args))
        finally:
            set_spawning_popen(None)
        # Only the child has the other end, and what it forks: this one reads end-of-file when all of them are gone.
        self.sentinel, alive = os.pipe()
        util.Finalize(self, os.close, (self.sentinel,))
        with ExitStack() as at_end:
            at_end.callback(os.close, alive)
            inbox, outbox = os.pipe()
            pipe = at_end.enter_context(open(outbox, "wb", buffering=0))
            try:
                for fd in (alive, inbox, preparation["tracker_fd"], preparation["mp_tracker_fd"]):
                    self.duplicate_for_child(fd)
                command = [sys.executable, boot.__file__, process.name, str(inbox)]
                self.pid = fork_exec(command, self._fds, env=process.env)
            finally:
                os.close(inbox)  # from here on, only the child can read
            with suppress(BrokenPipeError):  # it has ended already, and will be found so
                while message:
                    message = message[pipe.write(message) :]


class _Process(LokyProcess):  # type: ignore[misc]
    @staticmethod
    def _Popen(process: Any) -> _Popen:  # noqa: N802 - multiprocessing's name for it
        return _Popen(process)
