"""Wakeup: a flag with a descriptor; what is set stays visible until it is cleared."""

from __future__ import annotations

import os
import select

import pytest

from fuseline.wakeup import Wakeup


def is_readable(wakeup):
    return bool(select.select([wakeup.fileno()], [], [], 0)[0])


def test_it_is_readable_from_set_to_clear():
    wakeup = Wakeup()
    assert not is_readable(wakeup)
    wakeup.set()
    wakeup.set()
    assert is_readable(wakeup)
    wakeup.clear()
    assert not is_readable(wakeup)
    wakeup.close()
    wakeup.set()  # too late, and no trouble
    wakeup.close()


@pytest.mark.parametrize("moment", ["before the byte is read", "after the byte is read"])
def test_a_signal_in_the_middle_of_clear_is_not_lost(moment, monkeypatch):
    wakeup = Wakeup()
    wakeup.set()
    read = os.read

    def read_and_be_interrupted(fd, size):
        if moment.startswith("before"):
            wakeup.set()
        data = read(fd, size)
        if moment.startswith("after"):
            wakeup.set()
        return data

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read_and_be_interrupted)
        wakeup.clear()
    assert is_readable(wakeup)
    wakeup.clear()
    assert not is_readable(wakeup)
    wakeup.close()
