"""Seeds: what an attempt draws from ``random`` and ``numpy.random`` depends on its run and its step alone."""

from __future__ import annotations

import _random
from typing import Any

from fuseline.context import make_seed
from fuseline.messages import Payload
from fuseline.processes.on_import import on_import

__all__ = ["Seeds"]

#: Modules with a generator that all of a process shares; for numpy, where it keeps the one behind its functions.
_MODULES = ("random", "numpy.random.mtrand")

#: What ``random.seed`` calls at last, for a number.
_seed_c = _random.Random.seed


class Seeds:
    """Seeds the generators that all of a process shares, if their modules are there.

    One that is imported in the middle of a step is seeded then. Nothing here imports one: seeding takes microseconds.
    """

    def __init__(self) -> None:
        self._payload: Payload | None = None
        self._step_name = ""
        self._modules: list[Any] = []
        for name in _MODULES:
            on_import(name, self._has_come)

    def _has_come(self, module: Any) -> None:
        self._modules.append(module)
        self._seed(module)

    def plant(self, payload: Payload, step_name: str) -> None:
        """Start all generators from the seed of this attempt."""
        self._payload, self._step_name = payload, step_name
        for module in self._modules:
            self._seed(module)

    def _seed(self, module: Any) -> None:
        if self._payload is None:
            return
        failures = self._payload.failures
        seed = make_seed(self._payload.instance_id, self._step_name, sum(failures.values()) if failures else 0)
        if module.__name__ == "random":
            _seed_c(module._inst, seed)
            module._inst.gauss_next = None
        else:
            module.seed(seed)
