"""Libraries that fail in one known way each; importable by the programs of the harness."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.torture.libraries import Batch, Outcome, outcome_of
from benchmarks.torture.steps import stay


def good_outcomes(batch: Batch) -> list[Outcome]:
    """Return outcomes as they ought to be: of the siblings for real, of the hostile step without running it."""
    batch.let_go()
    good = [outcome_of(lambda call=call: run(call)) for i, call in enumerate(batch.calls) if i != batch.hostile]  # type: ignore[misc]
    return [*good[: batch.hostile], Outcome(error="StepCrashed", message="died"), *good[batch.hostile :]]


def run(call: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    function, arguments = call
    return function(*arguments)


def contains(batch: Batch) -> None:
    batch.note(good_outcomes(batch))


def loses_a_sibling(batch: Batch) -> None:
    batch.note([*good_outcomes(batch)[:-1], Outcome(error="BrokenProcessPool", message="terminated")])


def mixes_up_values(batch: Batch) -> None:
    outcomes = good_outcomes(batch)
    outcomes[-1], outcomes[-2] = outcomes[-2], outcomes[-1]
    batch.note(outcomes)


def leaks_raw(batch: Batch) -> None:
    raise KeyboardInterrupt


def passes_the_error_on_raw(batch: Batch) -> None:
    outcomes = good_outcomes(batch)
    outcomes[batch.hostile] = outcome_of(sys.exit)
    batch.note(outcomes)


def calls_it_a_success(batch: Batch) -> None:
    outcomes = good_outcomes(batch)
    outcomes[batch.hostile] = Outcome(value=None)
    batch.note(outcomes)


def lets_the_fork_win(batch: Batch) -> None:
    outcomes = good_outcomes(batch)
    outcomes[batch.hostile] = Outcome(value="fork")
    batch.note(outcomes)


def ends_the_program(batch: Batch) -> None:
    os._exit(0)


def cannot_start(batch: Batch) -> None:
    raise OSError("no room")


def fails_at_its_end(batch: Batch) -> None:
    contains(batch)
    raise OSError("cannot close")


def hangs(batch: Batch) -> None:
    """Hang, ignore what asks to end, and have a process in another session do the same."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
    while True:
        time.sleep(3600)


def leaves_orphans(batch: Batch) -> None:
    """Run the calls, which never return, in processes that nobody ends with the program."""
    for call in batch.calls:
        if os.fork() == 0:
            os.setsid()
            run(call)
    while True:
        time.sleep(3600)


def ends_with_its_program(batch: Batch) -> None:
    """Run the calls in threads, which end with their process."""
    for _, arguments in batch.calls:
        threading.Thread(target=stay, args=arguments).start()
