"""The program of the guardian, by itself: what it holds and lets go, and whom it kills at the end of its input."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fuseline.processes import guardian_main
from fuseline.testing.gate import HANG

#: No process has this number: Linux has none above 2 ** 22.
NOBODY = 2**22 + 1


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes, each of which leads a group."""
    with ExitStack() as stack:
        started = [subprocess.Popen(["sleep", "3600"], start_new_session=True) for _ in range(2)]
        for each in started:
            stack.callback(each.wait, HANG)
            stack.callback(each.kill)
        yield started


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_it_lets_go_of_files_when_told_to_and_kills_whom_it_was_told_of_when_its_input_ends(
    tmp_path: Path, sleepers: list[subprocess.Popen[bytes]], is_reset: bool
) -> None:
    watched, forgotten = sleepers
    proof = tmp_path / "proof"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        guardian = subprocess.Popen([sys.executable, "-I", guardian_main.__file__], stdin=theirs)
        with proof.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            socket.send_fds(ours, [b"=%b\n" % os.fsencode(proof)], [file.fileno()])
        assert is_locked(proof)  # on its way, or there
        ours.sendall(b"+%d\n+%d\n+%d\n-%d\n" % (NOBODY, watched.pid, forgotten.pid, forgotten.pid))
        ours.sendall(b"~%b" % os.fsencode(proof))
        ours.sendall(b"\n")
        with proof.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for it
        assert watched.poll() is None
        if is_reset:
            theirs.send(b"what our end does not read")
    assert watched.wait(HANG) == -signal.SIGKILL
    assert guardian.wait(HANG) == 0
    assert forgotten.poll() is None
