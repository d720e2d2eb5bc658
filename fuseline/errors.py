"""Every exception that fuseline raises or reports.

Each message has three parts: what happened, to whom, what to do. The parts are attributes too, every class survives
``pickle``, and each inherits from the built-in that a caller would expect (``StepTimedOut`` is a ``TimeoutError``)::

    FuselineError
    ├── WorkflowError (ValueError)        a definition that cannot work; raised where it is written
    │   ├── CycleError
    │   ├── DuplicateStepError
    │   ├── UnboundParameterError (also a TypeError)
    │   ├── UnknownInputError
    │   ├── UnknownExecutorError
    │   ├── UnknownStepError (also a KeyError)
    │   ├── UnsupportedPolicyError
    │   └── WorkflowChangedError
    ├── PolicyError (ValueError)          a policy with impossible values
    ├── NotPicklableError (TypeError)     a step, input, result or error that cannot travel
    ├── StepError                         one attempt of one step went wrong
    │   ├── StepTimedOut (TimeoutError)
    │   ├── StepOutOfMemory (MemoryError)
    │   ├── StepCrashed (RuntimeError)
    │   ├── StepLost (RuntimeError)
    │   └── RemoteStepError (RuntimeError)
    ├── RunError                          about a run as a whole
    │   ├── RunFailed (RuntimeError)
    │   │   └── RunTimedOut (also a TimeoutError)
    │   ├── RunCancelled (RuntimeError)
    │   ├── RunNotFinished (RuntimeError)
    │   └── UnknownRunError (KeyError)
    ├── UnknownWorkerError (KeyError)
    ├── BrokerError (ConnectionError)     a broker process that cannot be talked to
    ├── StoreError (OSError)              a store that cannot be used
    │   ├── StoreInUse
    │   └── StoreDamaged
    └── InternalError (RuntimeError)      a bug in fuseline
        ├── IllegalMove                   of one step or run, with its history
        ├── EndlessMoves                  steps go in circles
        └── InvariantBroken               found by a scheduler that was told to check itself
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "BrokerError",
    "CycleError",
    "DuplicateStepError",
    "EndlessMoves",
    "FuselineError",
    "IllegalMove",
    "InternalError",
    "InvariantBroken",
    "NotPicklableError",
    "PolicyError",
    "RemoteStepError",
    "RemoteTraceback",
    "RunCancelled",
    "RunError",
    "RunFailed",
    "RunNotFinished",
    "RunTimedOut",
    "StepCrashed",
    "StepError",
    "StepLost",
    "StepOutOfMemory",
    "StepTimedOut",
    "StoreDamaged",
    "StoreError",
    "StoreInUse",
    "UnboundParameterError",
    "UnknownExecutorError",
    "UnknownInputError",
    "UnknownRunError",
    "UnknownStepError",
    "UnknownWorkerError",
    "UnsupportedPolicyError",
    "WorkflowChangedError",
    "WorkflowError",
]


def rebuild(cls: type[FuselineError], args: tuple[Any, ...], fields: Mapping[str, Any]) -> FuselineError:
    """Return an error as it was, without a call of its ``__init__``."""
    # Of several built-in bases, the first in the order of look-up need not be the one that can make it.
    error = OSError.__new__(cls) if issubclass(cls, OSError) else Exception.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class FuselineError(Exception):
    """The base of every error that fuseline raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception rebuilds itself from its args, which does not fit an __init__ that takes fields.
        return rebuild, (type(self), self.args, dict(self.__dict__))

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return str(self.args[0]) if self.args else type(self).__name__


# -- definitions ------------------------------------------------------------------------------------------------------


class WorkflowError(FuselineError, ValueError):
    """A workflow, or what it is asked to do, cannot work as it is written."""


class CycleError(WorkflowError):
    """Steps wait for each other in a circle.

    Attributes:
        workflow: None if a step was told to wait for itself before it became part of one.
        cycle: the names along the circle, the first one repeated at the end.
    """

    def __init__(self, workflow: str | None, cycle: Sequence[str]) -> None:
        self.workflow = workflow
        self.cycle = tuple(cycle)
        shown = self.cycle if len(self.cycle) <= 12 else (*self.cycle[:6], "…", *self.cycle[-5:])
        if workflow is None:
            problem = f"step {cycle[0]!r} cannot wait for itself. Remove this edge."
        else:
            problem = f"workflow {workflow!r} has a cycle: {' -> '.join(shown)}. Remove one of these edges."
        super().__init__(problem)


class DuplicateStepError(WorkflowError):
    """Two steps of one workflow were given the same name."""

    def __init__(self, workflow: str, name: str) -> None:
        self.workflow = workflow
        self.step_name = name
        super().__init__(f"workflow {workflow!r} has two steps named {name!r}. Give one of them another name=.")


class UnboundParameterError(WorkflowError, TypeError):
    """A parameter of ``run_step`` that neither an input, nor a predecessor, nor a default can fill."""

    def __init__(self, step_name: str, parameter: str, advice: str) -> None:
        self.step_name = step_name
        self.parameter = parameter
        super().__init__(f"step {step_name!r} cannot fill the parameter {parameter!r} of its run_step. {advice}")


class UnknownInputError(WorkflowError):
    """An input that no step of the workflow takes."""

    def __init__(self, workflow: str, names: Iterable[str], known: Iterable[str]) -> None:
        self.workflow = workflow
        self.names = tuple(sorted(names))
        self.known = tuple(sorted(known))
        given = ", ".join(map(repr, self.names))
        takes = ", ".join(map(repr, self.known)) or "no inputs"
        super().__init__(
            f"no step of workflow {workflow!r} takes the input {given}; its steps can take {takes}. "
            "Rename the input, or the parameter of run_step that it is for."
        )


class UnknownExecutorError(WorkflowError):
    """An executor name that nothing is registered under."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(
            f"unknown executor {name!r}; known are {', '.join(self.known)}. "
            "Use one of these, pass an Executor instance, or install the package that registers it."
        )


class UnsupportedPolicyError(WorkflowError):
    """A policy asks for something that the chosen executor cannot do."""

    def __init__(self, step_name: str, policy: str, executor: str, need: str) -> None:
        self.step_name = step_name
        self.policy = policy
        self.executor = executor
        self.need = need
        super().__init__(
            f"{policy} on step {step_name!r} needs an executor that {need.replace('_', ' ')}, "
            f"and {executor!r} does not. Use executor='loky', or change the policy."
        )


class UnknownStepError(WorkflowError, KeyError):
    """A workflow has no step of this name."""

    def __init__(self, step_name: str, workflow: str, names: Sequence[str]) -> None:
        self.step_name = step_name
        self.workflow = workflow
        known = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
        super().__init__(f"workflow {workflow!r} has no step {step_name!r}. It has {known}.")


class WorkflowChangedError(WorkflowError):
    """Two programs, or two moments of one, mean different workflows by the same id."""

    def __init__(self, workflow_id: str, runs: Sequence[str] = (), workers: int = 0) -> None:
        self.workflow_id = workflow_id
        self.runs = tuple(runs)
        self.workers = workers
        what = f"workflow {workflow_id!r} has other steps, parameters, edges or policies than"
        if workers:
            end = f"{workers} worker{'s' if workers > 1 else ''}"
            advice = f"the one that {end} of this broker {'serve' if workers > 1 else 'serves'}. End them"
        elif runs:
            some = ", ".join(self.runs[:3]) + (", …" if len(self.runs) > 3 else "")
            advice = f"runs of it that have not ended ({some}). Let a LocalBroker migrate() these, or cancel them"
        else:
            advice = "when the run began. Resume it with changed=True"
        super().__init__(f"{what} {advice}; or give the changed workflow another version=.")


class PolicyError(FuselineError, ValueError):
    """A policy was given values that make no sense, such as a timeout of 0."""


class NotPicklableError(FuselineError, TypeError):
    """Something that has to travel between processes cannot be pickled, or not unpickled again.

    Attributes:
        what: the thing that cannot travel, such as ``"the result of step 'fit'"``.
        reason: the part of it that is to blame, as far as it could be found.
    """

    def __init__(self, what: str, reason: str, advice: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"cannot send {what}: {reason}. {advice}")


# -- attempts ---------------------------------------------------------------------------------------------------------


class StepError(FuselineError):
    """One attempt of one step went wrong in a way that its own code did not report.

    Attributes:
        step_name: the step.
        instance_id: the run, or None outside of one.
        attempt: counted from 1, or None outside of a run.
    """

    def __init__(self, message: str, *, step_name: str, instance_id: str | None, attempt: int | None) -> None:
        self.step_name = step_name
        self.instance_id = instance_id
        self.attempt = attempt
        super().__init__(message)

    @staticmethod
    def _whom(step_name: str, instance_id: str | None, attempt: int | None) -> str:
        run = f" of run {instance_id}" if instance_id else ""
        return f"step {step_name!r}{run}" + (f" (attempt {attempt})" if attempt else "")


class StepTimedOut(StepError, TimeoutError):
    """An attempt ran longer than its ``StepTimeoutPolicy`` allows.

    Attributes:
        timeout: the limit, in seconds.
        killed: True if the process that ran it was killed, False if the attempt was interrupted.
    """

    def __init__(
        self,
        *,
        step_name: str,
        timeout: float,
        killed: bool,
        instance_id: str | None = None,
        attempt: int | None = None,
    ) -> None:
        self.timeout = timeout
        self.killed = killed
        whom = self._whom(step_name, instance_id, attempt)
        how = "killed" if killed else "interrupted"
        super().__init__(
            f"{whom} ran longer than its timeout of {timeout:g} s and was {how}. Raise its StepTimeoutPolicy, or "
            "split the step.",
            step_name=step_name,
            instance_id=instance_id,
            attempt=attempt,
        )


class StepOutOfMemory(StepError, MemoryError):
    """An attempt needed more memory than its ``MemoryLimitPolicy`` allows.

    Attributes:
        limit: of all its processes together, in bytes.
        used: bytes that were resident then. Less than the limit if a large allocation was refused.
    """

    def __init__(
        self, *, step_name: str, limit: int, used: int, instance_id: str | None = None, attempt: int | None = None
    ) -> None:
        self.limit = limit
        self.used = used
        if used > limit:
            what = f"used {_readable(used)} of memory, more than its limit of {_readable(limit)}, and was ended"
        else:
            what = f"asked for far more memory than its limit of {_readable(limit)}, when it used {_readable(used)}"
        super().__init__(
            f"{self._whom(step_name, instance_id, attempt)} {what}. Raise its MemoryLimitPolicy, or let the step work "
            "on smaller parts.",
            step_name=step_name,
            instance_id=instance_id,
            attempt=attempt,
        )


def _readable(size_bytes: int) -> str:
    """Return ``"1.5 GiB"``."""
    size, unit = float(size_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size_bytes} bytes" if unit == "bytes" else f"{size:,.1f} {unit}"


class StepCrashed(StepError, RuntimeError):
    """The process that ran an attempt ended before the attempt did, or the attempt tried to end it.

    Attributes:
        exit_code: what the process exited with; None if it died by a signal or nobody could tell.
        signal_name: such as ``"SIGSEGV"``; None if it was no signal.
        phase: how far the attempt was: ``"loading"`` the code of its workflow, unpickling its ``"arguments"``,
            ``"running"`` its code or that of its policies, or pickling and sending its ``"result"``; None if nobody
            could tell, or if the process has not ended.
        pid: of the process; None if it has not ended.
    """

    phase: str | None = None  # of one that an earlier version has stored

    def __init__(
        self,
        *,
        step_name: str,
        how: str,
        exit_code: int | None = None,
        signal_name: str | None = None,
        pid: int | None = None,
        phase: str | None = None,
        instance_id: str | None = None,
        attempt: int | None = None,
    ) -> None:
        self.exit_code = exit_code
        self.signal_name = signal_name
        self.phase = phase
        self.pid = pid
        hint = f" {_LIKELY[signal_name]}" if signal_name in _LIKELY else ""
        super().__init__(
            f"{self._whom(step_name, instance_id, attempt)} {how}{_WHILE.get(phase or '', '')}.{hint} "
            "Other steps are not affected; a RetryPolicy would run it again.",
            step_name=step_name,
            instance_id=instance_id,
            attempt=attempt,
        )

    @classmethod
    def from_returncode(
        cls,
        returncode: int | None,
        *,
        step_name: str,
        instance_id: str | None,
        attempt: int | None,
        pid: int | None = None,
        phase: str | None = None,
    ) -> StepCrashed:
        """Describe the end of a process from what ``waitpid`` said (negative for a signal, None for unknown)."""
        if returncode is None:
            how, code, signal_name = "lost its process, which left no exit code", None, None
        elif returncode < 0:
            signal_name = _signal_name(-returncode)
            how, code = f"died by {signal_name}", None
        else:
            how, code, signal_name = f"ended its process with exit code {returncode}", returncode, None
        return cls(
            step_name=step_name,
            how=how,
            exit_code=code,
            signal_name=signal_name,
            pid=pid,
            phase=phase,
            instance_id=instance_id,
            attempt=attempt,
        )


#: {phase: what it adds to the message}
_WHILE = {
    "loading": " while the code of its workflow was loaded",
    "arguments": " while its arguments were unpickled",
    "result": " after it had returned, while its result was pickled, sent or removed",
}
#: {signal: what its coming is likely to mean}
_LIKELY = {
    "SIGKILL": "If nobody sent it, the kernel may have run out of memory.",
    "SIGSEGV": "C code has used memory that is not there: an extension module, or a recursion without end.",
    "SIGBUS": "A mapped file may have become shorter, or its disk is full.",
    "SIGABRT": "C code has given up: an assertion failed, or there was no memory.",
    "SIGILL": "C code may have been made for another CPU.",
    "SIGFPE": "C code may have divided an integer by zero.",
    "SIGXCPU": "It has used the CPU time that its resource limit allows.",
    "SIGXFSZ": "It has written a file larger than its resource limit allows.",
    "SIGALRM": "It has set an alarm without a handler.",
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class StepLost(StepError, RuntimeError):
    """An attempt could not be carried out, through no fault of the step: no process to be had, or engines that died."""


class RemoteStepError(StepError, RuntimeError):
    """Stands in for an exception of a step that cannot be pickled or not be unpickled here.

    Attributes:
        type_name: the dotted name of the original class.
        original_message: what the original exception said.
    """

    def __init__(
        self,
        *,
        step_name: str,
        type_name: str,
        original_message: str,
        reason: str,
        instance_id: str | None = None,
        attempt: int | None = None,
    ) -> None:
        self.type_name = type_name
        self.original_message = original_message
        super().__init__(
            f"{self._whom(step_name, instance_id, attempt)} raised {type_name}: {original_message} "
            f"(shown by a stand-in, because {reason}). To get it back whole, make it picklable: give all arguments "
            "of its __init__ to super().__init__, or define its __reduce__.",
            step_name=step_name,
            instance_id=instance_id,
            attempt=attempt,
        )


class RemoteTraceback(Exception):
    """The traceback of an exception as it was in the process of the step; the cause of the exception here."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


# -- runs -------------------------------------------------------------------------------------------------------------


class RunError(FuselineError):
    """Something about a run as a whole.

    Attributes:
        instance_id: the run.
    """

    def __init__(self, message: str, instance_id: str) -> None:
        self.instance_id = instance_id
        super().__init__(message)


class RunFailed(RunError, RuntimeError):
    """A run ended as FAILED. Its cause is the exception of the step that failed first.

    Attributes:
        step_names: the steps that failed, the first one first.
    """

    def __init__(self, instance_id: str, workflow: str, step_names: Sequence[str], reason: str) -> None:
        self.workflow = workflow
        self.step_names = tuple(step_names)
        failed = ", ".join(map(repr, self.step_names[:5])) + (", …" if len(self.step_names) > 5 else "")
        plural = "s" if len(self.step_names) > 1 else ""
        super().__init__(
            f"run {instance_id} of workflow {workflow!r} failed in step{plural} {failed}: {reason}",
            instance_id,
        )


class RunTimedOut(RunFailed, TimeoutError):
    """A run took longer than its ``WorkflowTimeoutPolicy`` allows. Its cause is that of a failed step, if there is one.

    Attributes:
        timeout: the limit, in seconds.
        step_names: the steps that had failed by then, the first one first; mostly none.
    """

    def __init__(self, instance_id: str, workflow: str, timeout: float, step_names: Sequence[str] = ()) -> None:
        self.workflow = workflow
        self.timeout = timeout
        self.step_names = tuple(step_names)
        RunError.__init__(
            self,
            f"run {instance_id} of workflow {workflow!r} took longer than its timeout of {timeout:g} s, and was ended. "
            "Raise its WorkflowTimeoutPolicy; with a store, resume() lets it go on from what is done.",
            instance_id,
        )


class RunCancelled(RunError, RuntimeError):
    """A run was cancelled before it had a result."""

    def __init__(self, instance_id: str, workflow: str) -> None:
        self.workflow = workflow
        super().__init__(f"run {instance_id} of workflow {workflow!r} was cancelled. It has no result.", instance_id)


class RunNotFinished(RunError, RuntimeError):
    """The result of a run was asked for before the run has ended."""

    def __init__(self, instance_id: str, workflow: str, state: str) -> None:
        self.workflow = workflow
        super().__init__(
            f"run {instance_id} of workflow {workflow!r} is {state} and has no result yet. "
            "Let an engine work() on it, or ask again with a timeout.",
            instance_id,
        )


class UnknownRunError(RunError, KeyError):
    """No run has this id, or it was forgotten."""

    def __init__(self, instance_id: str) -> None:
        shown = repr(instance_id)
        if len(shown) > 80:  # another text, or object, that somebody took for it
            shown = f"{shown[:80]}…"
        super().__init__(
            f"no run has the id {shown}. It was never dispatched to this broker, or it was forgotten.",
            instance_id,
        )


class UnknownWorkerError(FuselineError, KeyError):
    """A worker id that was never given out, or whose worker has left."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        super().__init__(f"no worker has the id {worker_id!r}. Call register_worker() first and use what it returns.")


# -- broker processes and stores --------------------------------------------------------------------------------------


class BrokerError(FuselineError, ConnectionError):
    """A broker process cannot be started, refuses this program, or does not answer."""


class StoreError(FuselineError, OSError):
    """The file of a store cannot be used as one. It was not changed."""


class StoreInUse(StoreError):
    """Another process has the store open.

    Attributes:
        path: the file.
        pid: the process; None if it did not say.
    """

    def __init__(self, path: object, pid: int | None) -> None:
        self.path = str(path)
        self.pid = pid
        owner = "another process" if pid is None else f"process {pid}"
        super().__init__(f"the store {path} is in use by {owner}. Connect to that broker, or end it first.")


class StoreDamaged(StoreError):
    """The file of a store is no longer whole.

    Attributes:
        path: the file.
    """

    def __init__(self, path: object, what: str) -> None:
        self.path = str(path)
        self.what = what
        super().__init__(f"the store {path} is damaged: {what}. Put back a copy of it, or move it away and start anew.")


class InternalError(FuselineError, RuntimeError):
    """A bug in fuseline. What it has in memory may be wrong; what it has stored is not."""


class IllegalMove(InternalError):
    """A step or run was to make a move that the table of states does not have: a bug in fuseline.

    Attributes:
        history: what is known of the step or run at that moment.
    """

    def __init__(self, whom: str, origin: str, target: str, history: str) -> None:
        self.history = history
        super().__init__(f"{whom} cannot go from {origin} to {target} ({history}). Please report this as a bug.")


class EndlessMoves(InternalError):
    """More moves followed from one event than there can be: steps go in circles, by a bug in fuseline.

    Attributes:
        history: the last of these moves.
    """

    def __init__(self, whom: str, moves: int, history: str) -> None:
        self.history = history
        super().__init__(
            f"{whom} made more than {moves} moves because of one event, which is more than its steps can "
            f"({history}). Please report this as a bug."
        )


class InvariantBroken(InternalError):
    """What must be true of a scheduler between two events is not: a bug in fuseline.

    Attributes:
        rule: what must be true.
    """

    def __init__(self, whom: str, rule: str) -> None:
        self.rule = rule
        super().__init__(f"it is not true that {whom} {rule}. Please report this as a bug.")
