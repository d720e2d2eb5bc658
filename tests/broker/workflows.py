"""Steps and workflows that the tests of brokers share."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from fuseline import Step, Workflow
from fuseline.policies import RetryPolicy
from fuseline.testing import Gate


class Add(Step):
    def run_step(self, a: int, b: int = 10) -> int:
        return a + b


class Double(Step):
    def run_step(self, x: int) -> int:
        return 2 * x


class Fail(Step):
    def run_step(self) -> None:
        raise KeyError("no")


class FailUnless(Step):
    """Fails until there is a file."""

    def run_step(self, path: str, x: int) -> int:
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        return x


class Log(Step):
    """Writes its start and end to a file."""

    def run_step(self, log: str, number: int) -> int:
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"start {number} {os.getpid()}\n".encode())
        os.write(fd, f"end {number} {os.getpid()}\n".encode())
        os.close(fd)
        return number


class PacedLog(Log):
    """Takes a byte from a pipe, does the same, and puts a byte into another pipe."""

    def run_step(self, log: str, number: int, permits: str, ticks: str) -> int:  # type: ignore[override]
        with open(permits, "rb", buffering=0) as pipe:
            pipe.read(1)
        result = super().run_step(log, number)
        with open(ticks, "wb", buffering=0) as pipe:
            pipe.write(b".")
        return result


class Hold(Step):
    """Runs until its gate opens."""

    def run_step(self, gate: Gate) -> str:
        gate.enter()
        return "held"


class HoldWithHelp(Step):
    """Starts a process, says which, and runs until its gate opens."""

    def run_step(self, gate: Gate) -> str:
        with subprocess.Popen(["sleep", "3600"]) as helper:
            gate.enter(str(helper.pid))
            helper.kill()
        return "held"


class Bytes(Step):
    def run_step(self, size: int) -> bytes:
        return b"x" * size


class Length(Step):
    def run_step(self, data: bytes) -> int:
        return len(data)


def adding() -> Workflow:
    add, double = Add(), Double()
    add >> double
    return Workflow(outputs=[double], name="adding")


def logging() -> Workflow:
    """One step that is tried again when its process is killed."""
    return Workflow(outputs=[PacedLog(policies=[RetryPolicy(max_retries=50)], name="Log")], name="logging")


def starts(log: Path) -> list[str]:
    """Return what was started, in order."""
    return [line.split()[1] for line in log.read_text().splitlines() if line.startswith("start")]


def values_of(store: Path) -> list[Any]:
    """Return the files of large values beside a store."""
    return sorted(store.with_name(store.name + ".files").joinpath("values").iterdir())
