"""Which processes there are, and what each is for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from fuseline.broker.store.file import read_owner

from .plan import Target
from .steps import FOLDER

__all__ = ["describe", "find", "find_marked", "is_worker"]


def is_worker(process: psutil.Process) -> bool:
    """Return whether it is a child that runs steps, and no helper of the program."""
    return _looks_like(process, "fuseline-child", "processes/boot.py")


def find(target: Target, engines: Iterable[int], store: Path) -> list[psutil.Process]:
    """Return the living processes of a kind, and no one else's."""
    if target is Target.BROKER:
        owner, _ = read_owner(store)  # it may be dead, and its number that of a process that is none of our business
        return [process for process in _living([owner or 0]) if _is_marked(process, FOLDER, str(store.parent))]
    programs = _living(engines)
    if target is Target.ENGINE:
        return programs
    below = [child for program in programs for child in _children(program)]
    if target is Target.CHILD:
        return [process for process in below if is_worker(process)]
    name = "guardian_main" if target is Target.GUARDIAN else "resource_tracker"
    return [process for process in below if _looks_like(process, name)]


def find_marked(variable: str, value: str) -> list[psutil.Process]:
    """Return the living processes that have inherited a variable of the environment, but for this one."""
    others = (process for process in psutil.process_iter() if process.pid != os.getpid())
    return [process for process in others if _is_marked(process, variable, value)]


def describe(process: psutil.Process) -> str:
    """Return what a process is."""
    try:
        return f"process {process.pid} ({process.status()}): {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"process {process.pid}, which has just ended"


def _is_marked(process: psutil.Process, variable: str, value: str) -> bool:
    try:
        return process.environ().get(variable) == value
    except psutil.Error:  # it has just ended, or is somebody else's
        return False


def _living(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def _looks_like(process: psutil.Process, *parts: str) -> bool:
    """Return whether one of these is in its command line."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False
    return any(part in command for part in parts)
