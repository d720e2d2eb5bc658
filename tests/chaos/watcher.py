"""Watcher: follows the events of a broker, and notes when it was told of the end of what."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from fuseline.broker import LocalBroker
from fuseline.errors import FuselineError

from .history import Heard

__all__ = ["Watcher"]

#: Seconds between two tries to reach a broker, and in which it notices that it should stop.
_PAUSE = 0.1


class Watcher:
    """Watches in a thread, from the first broker to ``stop``."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self.heard: list[Heard] = []
        self._thread.start()

    def stop(self) -> None:
        """Watch no more, and leave the broker."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except FuselineError:  # the broker cannot write, say
                self._stopped.wait(_PAUSE)

    def _follow(self) -> None:
        with LocalBroker(self._store) as broker, broker.events() as stream:
            while not self._stopped.is_set():
                event = stream.next_event(_PAUSE)
                if event is not None and event.state.is_settled:
                    told = (event.instance_id, event.step_name, event.state, event.attempt)
                    self.heard.append(Heard(time.monotonic(), *told))
