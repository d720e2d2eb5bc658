"""Signals to a process and everything it started.

A child leads a process group of its own, so one signal reaches whatever it started, and still does when the child is
gone. What left the group but still has its parents is found by walking the tree, while that stands.
"""

from __future__ import annotations

import os
import signal

import psutil

__all__ = ["descendants", "group_members", "kill_processes", "signal_group"]


def signal_group(leader: int, number: int) -> None:
    """Send a signal to the group that ``leader`` leads, or to ``leader`` if it has no group yet. None left is fine."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        try:
            os.kill(leader, number)
        except (ProcessLookupError, PermissionError):
            pass
    except PermissionError:  # macOS says so of a group that has only zombies
        pass


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes below ``pid``, as far as their parents are alive. Walks all processes of the machine."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def kill_processes(processes: list[psutil.Process]) -> None:
    """Send SIGKILL to those that are still the same processes."""
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            pass


def group_members(leader: int) -> list[int]:
    """Return the pids in the group of ``leader`` that are alive; zombies are not. Empty is the cheap case."""
    try:
        os.killpg(leader, 0)
    except (ProcessLookupError, PermissionError):
        return []
    return [pid for pid in psutil.pids() if _is_member(pid, leader)]


def is_alive(process: psutil.Process) -> bool:
    """Return whether it runs, or could: a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _is_member(pid: int, leader: int) -> bool:
    try:
        return os.getpgid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False
