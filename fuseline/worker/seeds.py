"""Seeds: what an attempt draws from ``random`` and ``numpy.random`` depends on its run and its step alone."""

from __future__ import annotations

import _random
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fuseline.context import make_seed
from fuseline.messages import Payload
from fuseline.processes.on_import import on_import

__all__ = ["Seeds"]

#: Modules with a generator that all of a process shares.
_MODULES = ("random", "numpy.random")
#: What ``random.seed`` calls at last, for a number.
_seed_random = _random.Random.seed


class Seeds:
    """Seeds the generators that all of a process shares, as soon as somebody uses their modules.

    Seeding takes microseconds, and so does nothing to a process whose steps draw no numbers.
    """

    def __init__(self) -> None:
        self._payload: Payload | None = None
        self._step_name = ""
        self._used: list[Any] = []
        for name in _MODULES:
            on_import(name, self._watch)

    def _watch(self, module: ModuleType) -> None:
        _Unused.watch(module, self._is_used)

    def _is_used(self, module: ModuleType) -> None:
        self._used.append(module)
        self._seed(module)

    def plant(self, payload: Payload, step_name: str) -> None:
        """Let all generators start from the seed of this attempt."""
        self._payload, self._step_name = payload, step_name
        for module in self._used:
            self._seed(module)

    def _seed(self, module: Any) -> None:
        if self._payload is None:
            return
        failures = self._payload.failures
        seed = make_seed(self._payload.instance_id, self._step_name, sum(failures.values()) if failures else 0)
        if module.__name__ == "random":
            _seed_random(module._inst, seed)
            module._inst.gauss_next = None
        else:
            module.seed(seed)


class _Unused(ModuleType):
    """A module that nobody has taken anything from since it is watched."""

    @classmethod
    def watch(cls, module: ModuleType, on_use: Callable[[ModuleType], None]) -> None:
        """Have ``on_use(module)`` called before the first use of anything in it."""
        module.__dict__["_fuseline_on_use"] = on_use
        module.__class__ = cls

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):  # what the import system asks for
            self.__class__ = ModuleType  # type: ignore[assignment]
            on_use = self.__dict__.pop("_fuseline_on_use", None)
            if on_use is not None:  # else another thread has come first
                on_use(self)
        return ModuleType.__getattribute__(self, name)
