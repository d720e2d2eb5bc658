"""How a child process begins, before anything else runs in it: ``python boot.py NAME N``, N a pipe to read from.

loky's own beginning imports the whole of loky, ``concurrent.futures`` and cloudpickle, which takes longer than all that
fuseline needs; a child uses none of it. So this does what loky's does, without importing loky. ``launch`` is its other
half, in the program. Until it has the program's ``sys.path``, it imports nothing but Python itself.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from typing import Any


def main() -> None:
    """Read from the pipe what to be, and be it. The name is for those who look at a list of processes."""
    with os.fdopen(int(sys.argv[2]), "rb") as pipe:
        gc.disable()  # nothing of what is imported is garbage
        _prepare(pickle.load(pipe))
        target, args = pickle.load(pipe)
    gc.enable()
    target(*args)


def _prepare(data: dict[str, Any]) -> None:
    """Take over from the program what loky gives to a child; there is nothing about ``__main__`` in it."""
    sys.path = data["sys_path"]
    sys.argv = data["sys_argv"]
    os.chdir(data["dir"])

    from fuseline.processes.on_import import on_import

    parent = os.getppid()
    on_import("multiprocessing.process", lambda process: _take_after(process, data, parent))
    on_import("multiprocessing.resource_tracker", lambda module: _share(module, data["mp_tracker_fd"]))
    on_import("loky.backend.resource_tracker", lambda module: _share(module, data["tracker_fd"]))


def _take_after(process: Any, data: dict[str, Any], parent: int) -> None:
    """Let ``multiprocessing`` see a process that it has started itself."""
    process.current_process().name = data["name"]
    process.current_process().authkey = data["authkey"]
    process.ORIGINAL_DIR = data["orig_dir"]
    process._parent_process = process._ParentProcess("MainProcess", parent, None)


def _share(resource_tracker: Any, fd: int) -> None:
    """Report to the program's tracker, which outlives this process, and not to one of our own."""
    resource_tracker._resource_tracker._fd = fd


if __name__ == "__main__":
    main()
