"""Starting a child process through loky, to begin as ``boot`` says."""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
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
    process = _Process(
        target=target,
        args=args,
        env={**safe_path_environment(), **environment},
        name="fuseline-child",
    )
    for tracker in (loky_resource_tracker, resource_tracker):  # they unblock the signal when they start
        with safe_path() if tracker._resource_tracker._fd is None else nullcontext():
            tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _streams():
            process.begin()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


@contextmanager
def _streams() -> Iterator[None]:
    """Lend a program that has no standard output or error, which are flushed before a start, something to flush."""
    with ExitStack() as stack:
        if sys.stdout is None:
            stack.enter_context(redirect_stdout(io.StringIO()))
        if sys.stderr is None:
            stack.enter_context(redirect_stderr(io.StringIO()))
        yield


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
    def begin(self) -> None:
        """Start the process, which multiprocessing need not know of.

        ``start`` would have it among ``multiprocessing.active_children()``, which reaps whatever has ended: then its
        number could be somebody else's when we send it a signal. And it refuses where the program is itself a daemonic
        process, which could not see to the end of its children; ours end all the same.
        """
        self._popen = self._Popen(self)
        self._sentinel = self._popen.sentinel
        del self._target, self._args, self._kwargs  # what the child has got

    @staticmethod
    def _Popen(process: Any) -> _Popen:  # noqa: N802 - multiprocessing's name for it
        return _Popen(process)
