"""Steps that say where and when they run; importable by children, which then load nothing else."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuseline import Step


class Log(Step):
    """Appends its name to a file, and then does what it is told."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(**options)
        self.path = str(path)

    def run_step(self, name: str, deed: str = "return") -> str:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{name}\n".encode())
        os.close(fd)
        if deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed == "raise":
            raise ValueError(name)
        elif deed == "hang":
            pow(7, 10**9)
        elif deed == "dawdle":
            time.sleep(0.15)
        elif deed == "garble":
            for fd in range(3, 64):
                with suppress(OSError):
                    if stat.S_ISSOCK(os.fstat(fd).st_mode):
                        os.write(fd, b"garbage")
        return name


class Size(Step):
    def run_step(self, data: bytes) -> int:
        return len(data)


class ReturnsLock(Step):
    def run_step(self, path: str) -> Any:
        with open(path, "a") as file:
            print(os.getpid(), file=file)
        return threading.Lock()


class Grow(Step):
    """Adds the number of its process to a list."""

    def run_step(self, value: list[int], deed: str = "return") -> list[int]:
        if deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed == "raise":
            raise ValueError(value)
        elif deed == "exit":
            raise SystemExit(3)
        elif deed == "hang":
            pow(7, 10**9)
        elif deed == "large":
            return list(range(40_000))
        return [*value, os.getpid()]


class Where(Step):
    def run_step(self, *parts: str) -> str | list[str]:
        return list(parts) if parts else "a"
