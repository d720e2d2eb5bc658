"""Putting a contract on trial: one of its tests, on a backend that is broken on purpose."""

from __future__ import annotations

from typing import Any

import pytest

from fuseline.testing.promise import BrokenPromise, Contract

#: Seconds that a test of a contract may take here: a plant that hangs must be found out quickly.
PATIENCE = 0.4


def broken_promise(contract: type[Contract], test: str, **attributes: Any) -> BrokenPromise:
    """Run one test of a contract, and return how it fails."""
    suite = type("Trial", (contract,), {"patience": PATIENCE, **attributes})()
    with pytest.raises(BrokenPromise) as caught:
        getattr(suite, test)()
    return caught.value
