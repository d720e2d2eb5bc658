"""More that steps do to break a pool; importable by children. Named as in ``hostile.DEEDS``."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from fuseline import Step


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    while True:  # a signal to oneself may take a moment
        pass


def hang() -> NoReturn:
    while True:
        time.sleep(3600)


def throw(error: BaseException) -> NoReturn:
    raise error


# -- what travels, or should ------------------------------------------------------------------------------------------


class Calls:
    """Calls a function at one moment of its life."""

    def __init__(self, moment: str, call: Callable[[], Any]) -> None:
        self.moment = moment
        self.call = call

    def __reduce__(self) -> Any:
        if self.moment == "pickled":
            self.call()
        return (self.call, ()) if self.moment == "unpickled" else (str, ("as usual",))

    def __del__(self) -> None:
        if self.moment == "collected":
            self.call()


class CallsError(Exception):
    """Calls a function when it is pickled, or asked for its text."""

    def __init__(self, moment: str, call: Callable[[], Any]) -> None:
        super().__init__(moment)
        self.moment = moment
        self.call = call

    def __str__(self) -> str:
        if self.moment == "shown":
            self.call()
        return self.moment

    def __reduce__(self) -> Any:
        if self.moment == "pickled":
            self.call()
        return (self.call, ()) if self.moment == "unpickled" else (ValueError, (self.moment,))


class Hermit:
    """Cannot be shown, compared or hashed."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no eq")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


class OwnBaseError(BaseException):
    pass


def raise_in_a_circle() -> NoReturn:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def raise_many_groups() -> NoReturn:
    error: Exception = ValueError("innermost")
    for _ in range(5000):
        error = ExceptionGroup("group", [error])
    raise error


def raise_with_a_lock() -> NoReturn:
    error = ValueError("has a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


async def compute() -> int:
    return 1


# -- the process ------------------------------------------------------------------------------------------------------


def overflow_the_stack() -> NoReturn:
    """Recurse through callbacks from C until the stack of the thread is used up."""
    kind = ctypes.CFUNCTYPE(None)
    sys.setrecursionlimit(10**9)
    callback = kind(lambda: callback())  # noqa: PLW0108 - it is not there yet
    callback()
    raise RecursionError("this Python counts calls from C too")


def read_beyond_the_end() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        with mmap.mmap(file.fileno(), mmap.PAGESIZE) as view:
            file.truncate(0)
            return view[0]


def spend_all_processor_time() -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGXCPU)  # what the kernel sends when RLIMIT_CPU is used up
    while True:
        pass


def be_alarmed() -> NoReturn:
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    while True:
        pass


def dump_and_die() -> NoReturn:
    faulthandler.enable()
    faulthandler._sigsegv()  # type: ignore[attr-defined]
    raise AssertionError


def raise_in_a_handler() -> NoReturn:
    signal.signal(signal.SIGUSR1, lambda *_: throw(OwnBaseError("from a handler")))
    os.kill(os.getpid(), signal.SIGUSR1)
    while True:
        pass


def exit_in_a_thread() -> str:
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
    return "returned"


def end_process_in_a_thread() -> NoReturn:
    threading.Thread(target=os._exit, args=(4,)).start()
    while True:
        time.sleep(3600)


def end_process_at_exit() -> str:
    import atexit

    atexit.register(os._exit, 5)
    return "returned"


def allow_no_descriptors() -> str:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
    return "returned"


def fork_and_the_first_one_dies() -> str:
    if os.fork():
        os._exit(6)
    return "the second one"


def leave_a_fork() -> str:
    if os.fork() == 0:
        hang()
    return "returned"


def leave_a_pool() -> str:
    import multiprocessing  # late, as others: each child imports this module, and few need them

    pool = multiprocessing.get_context("fork").Pool(2)
    _kept.append(pool)
    return str(pool.apply(str, ("returned",)))


_kept: list[Any] = []


def leave_a_tracer() -> str:
    sys.settrace(lambda *_: throw(OwnBaseError("from a tracer")))
    return "returned"


def block_all_signals() -> NoReturn:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    hang()


def become_another_program() -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.exit(9)"])


def become_another_program_that_stays() -> NoReturn:
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)"])


def import_a_killer() -> None:
    import kills_on_import  # type: ignore[import-not-found]  # noqa: F401


def wait_for_a_program() -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(3600)"], check=True)


def never_end_a_task() -> None:
    import asyncio

    asyncio.run(asyncio.Event().wait())  # type: ignore[arg-type]


def swallow_cancellation() -> None:
    import asyncio

    async def main() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    asyncio.run(main())


#: {what a step does: call}. They end by themselves.
ENDING: dict[str, Callable[[], Any]] = {
    # dies
    "os.abort": os.abort,
    "stack overflow in C": overflow_the_stack,
    "reads beyond the end of a file in memory": read_beyond_the_end,
    "reads address 0": lambda: ctypes.string_at(0),
    "uses up its processor time": spend_all_processor_time,
    "alarm": be_alarmed,
    "dumps a traceback and dies": dump_and_die,
    "kills its process group": lambda: (os.killpg(0, signal.SIGKILL), hang()),
    "os._exit in a thread": end_process_in_a_thread,
    "becomes another program": become_another_program,
    "forks and the first one dies": fork_and_the_first_one_dies,
    "imports a module that kills": import_a_killer,
    "exception whose __reduce__ kills": lambda: throw(CallsError("pickled", die)),
    "exception whose loading kills": lambda: throw(CallsError("unpickled", die)),
    "exception whose __str__ kills": lambda: throw(CallsError("shown", die)),
    "result whose pickling kills": lambda: Calls("pickled", die),
    "result whose loading kills": lambda: Calls("unpickled", die),
    "result whose __del__ kills": lambda: Calls("collected", die),
    # raises
    "BaseException of its own": lambda: throw(OwnBaseError("own")),
    "GeneratorExit": lambda: throw(GeneratorExit("own")),
    "StopIteration": lambda: throw(StopIteration("own")),
    "exception whose __reduce__ exits": lambda: throw(CallsError("pickled", sys.exit)),
    "exception with a cause that leads in a circle": raise_in_a_circle,
    "exception group of 5,000 levels": raise_many_groups,
    "exception with a lock": raise_with_a_lock,
    "exception of 20 MB": lambda: throw(ValueError("x" * 20_000_000)),
    "sys.exit with an object that cannot be shown": lambda: sys.exit(Hermit()),  # type: ignore[arg-type]
    "signal handler that raises": raise_in_a_handler,
    "tracer that raises": leave_a_tracer,
    "tries to leave its session": os.setsid,
    "more memory than there is": lambda: bytearray(1 << 60),
    # returns what does not travel
    "returns a frame": sys._getframe,
    "returns an open file": lambda: open(os.devnull, "w"),  # noqa: SIM115 - that is the point
    "returns a socket": lambda: socket.socketpair()[0],
    "returns a coroutine": compute,
    "returns a memoryview": lambda: memoryview(b"view"),
    "returns a thread": lambda: threading.Thread(target=hang),
    # returns what does
    "returns a module": lambda: os,
    "returns a dict with NaN keys": lambda: {float("nan"): 1, float("-nan"): 2},
    "returns what cannot be shown, compared or hashed": Hermit,
    "returns its own step": lambda: make_step(),  # noqa: PLW0108 - it is defined below
    "result whose __del__ raises": lambda: Calls("collected", lambda: throw(ValueError("unraisable"))),
    "closes standard input, output and error": lambda: os.closerange(0, 3) or "returned",
    "sys.exit in a thread": exit_in_a_thread,
    "os._exit at exit": end_process_at_exit,
    "allows itself no descriptors": allow_no_descriptors,
    "leaves a fork": leave_a_fork,
    "leaves a pool": leave_a_pool,
    "interrupts itself": lambda: os.kill(os.getpid(), signal.SIGINT) or "returned",
}

#: {what a step does: call}. They end by a timeout only.
HANGING: dict[str, Callable[[], Any]] = {
    "result whose pickling hangs": lambda: Calls("pickled", hang),
    "result whose loading hangs": lambda: Calls("unpickled", hang),
    "exception whose __str__ hangs": lambda: throw(CallsError("shown", hang)),
    "blocks all signals": block_all_signals,
    "becomes another program that stays": become_another_program_that_stays,
    "waits for a program": wait_for_a_program,
    "task that never ends": never_end_a_task,
    "coroutine that swallows its cancellation": swallow_cancellation,
}


#: Those that change the process for whoever comes after them there.
TAINTING = {
    "stack overflow in C",
    "tracer that raises",
    "closes standard input, output and error",
    "allows itself no descriptors",
}


class Odd(Step):
    def run_step(self, deed: str) -> Any:
        return {**ENDING, **HANGING}[deed]()


def make_step() -> Step:
    return Odd(name="itself")
