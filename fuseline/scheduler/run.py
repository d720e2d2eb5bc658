"""One run: the states of its steps, and what the end of one means for the others.

Everything that stays inside of a run happens here; who gets which step, tokens and time are the core's business. Each
move is noted in ``journal``, which the core reads to queue what became ready and to tell those who watch.
"""

from __future__ import annotations

from collections.abc import Mapping

from fuseline.errors import EndlessMoves, IllegalMove
from fuseline.messages import Payload
from fuseline.scheduler.plan import NO_ARGUMENTS, Arguments, BoundPlan, Plan
from fuseline.states import NEXT_RUN_STATES, NEXT_STEP_STATES, SETTLED, State
from fuseline.values import COMING, ErrorInfo, Value

__all__ = ["Run"]

#: Characters of an error that the story of a step tells.
_CAUSE_LIMIT = 300


class Run:
    """One execution of a workflow. Lists are by the number of the step; dicts hold only what there is."""

    __slots__ = (
        "attempts",
        "bound",
        "cancelled",
        "causes",
        "created",
        "dropped",
        "due",
        "errors",
        "failed_steps",
        "failures",
        "finished",
        "inputs",
        "instance_id",
        "journal",
        "missing",
        "most_moves",
        "number",
        "open_steps",
        "plan",
        "promised",
        "queued",
        "ready",
        "restarts",
        "results",
        "running",
        "start_differs",
        "start_token",
        "started",
        "started_by",
        "state",
        "states",
        "step_finished",
        "step_started",
        "taken_up",
        "timed_from",
        "timed_out",
        "unwanted",
        "uses",
        "was_restored",
        "workers",
    )

    def __init__(
        self, instance_id: str, number: int, plan: Plan, bound: BoundPlan, inputs: Mapping[str, Value], now: float
    ) -> None:
        count = len(plan.names)
        self.instance_id = instance_id
        self.number = number  #: of its dispatch: an older run has a smaller one
        self.plan = plan
        self.bound = bound
        self.inputs = inputs
        self.state = State.PENDING
        self.states = [State.PENDING] * count
        self.missing = list(plan.missing)  #: predecessors that have not succeeded yet
        self.attempts = [0] * count
        self.uses = list(bound.uses)  #: how often a result is still needed
        self.open_steps = count  #: not settled yet
        self.ready: list[int] = []  #: a stack: what became ready last is taken first
        self.queued = False  #: whether the ready queue holds it
        #: Moves that the core has not read yet: (step, or None for the run; state; cause).
        self.journal: list[tuple[int | None, State, str]] = []
        #: In one event a step moves three times at most, because it can only start once: it becomes ready, starts and
        #: ends, if it was promised and its report came with that of the step that it follows. The run starts and ends.
        self.most_moves = 3 * count + 2
        self.running: dict[int, int] = {}  #: {step: token}
        self.workers: dict[int, str] = {}  #: {running step: who has its assignment}
        #: {pending step: (the token it will have, and whose)}, if it starts as soon as the one that it follows succeeds
        self.promised: dict[int, tuple[int, str]] = {}
        self.due: dict[int, float] = {}  #: {retrying step: when its next attempt may start}
        self.results: dict[int, Value] = {}
        self.dropped: list[str] = []  #: files of results that nobody needs, of which the core has not told yet
        self.errors: dict[int, ErrorInfo] = {}
        self.causes: dict[int, str] = {}
        self.failures: dict[int, dict[int, int]] = {}  #: {step: {place of a policy: failures it decided}}
        self.restarts: dict[int, int] = {}
        self.failed_steps: list[int] = []  #: in the order in which they failed
        self.cancelled = False
        self.timed_out = False  #: whether it has had its time
        self.was_restored = False  #: whether it went on from a record
        self.unwanted: set[int] = set()  #: steps whose end somebody has asked for
        self.started_by: str | None = None  #: the worker that was to tell of its start, the last one
        #: of the assignment with which it was; 0 after that was handed back untold, until the next
        self.start_token: int | None = None
        #: whether these two are no longer those of the first assignment, and not recorded yet
        self.start_differs = False
        self.created = now
        self.taken_up = now  #: when it was dispatched, or went on from a record
        self.started: float | None = None
        self.timed_from: float | None = None  #: when its time began: its first start, since it was resumed if it was
        self.finished: float | None = None
        self.step_started: dict[int, float] = {}
        self.step_finished: dict[int, float] = {}

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new may start in it."""
        return self.cancelled or bool(self.failed_steps and self.plan.stops_on_failure)

    def may_not_start(self, step: int) -> bool:
        """Whether an attempt of this step would be in vain."""
        return step in self.unwanted or self.is_stopping

    # -- moves --------------------------------------------------------------------------------------------------------

    def move_step(self, step: int, target: State, cause: str = "") -> None:
        """Take a step to another state; the one place that does.

        Args:
            cause: why, where the new state does not say it.

        Raises:
            IllegalMove: the table of states has no such move. Nothing was changed.
        """
        origin = self.states[step]
        if target not in NEXT_STEP_STATES[origin]:
            history = f"attempts {self.attempts[step]}, token {self.running.get(step)}, run {self.state}"
            whom = f"step {self.plan.names[step]!r} of run {self.instance_id}"
            raise IllegalMove(whom, origin, target, history)
        self.states[step] = target
        if self.causes and not cause:
            cause = self.causes.get(step, "")
        self.journal.append((step, target, cause))
        if len(self.journal) > self.most_moves:
            raise self.endless(self.most_moves)
        if target in SETTLED:
            self.open_steps -= 1

    def move(self, target: State, cause: str = "") -> None:
        """Take the run itself to another state; the one place that does.

        Args:
            cause: why, where neither the new state nor those of the steps say it.

        Raises:
            IllegalMove: the table of states has no such move. Nothing was changed.
        """
        if target not in NEXT_RUN_STATES[self.state]:
            raise IllegalMove(f"run {self.instance_id}", self.state, target, f"{self.open_steps} steps are open")
        self.state = target
        self.journal.append((None, target, cause))

    def endless(self, moves: int) -> EndlessMoves:
        """Return the error that says that there were more than so many moves at once, with the last ones."""
        last = [f"{self.state}" if step is None else f"{self.plan.names[step]} {to}" for step, to, _ in self.journal]
        return EndlessMoves(f"run {self.instance_id}", moves, "the last: " + ", ".join(last[-10:]))

    def release(self, step: int) -> None:
        """End an attempt; what follows from it is told next."""
        del self.running[step]
        del self.workers[step]

    def make_ready(self, step: int, cause: str = "") -> None:
        """Let a step start as soon as there is room."""
        self.due.pop(step, None)
        self.move_step(step, State.READY, cause)
        self.ready.append(step)

    def start(self, step: int, token: int, worker_id: str, now: float) -> None:
        """Begin an attempt."""
        if self.state is State.PENDING:
            self.move(State.RUNNING)
            self.started = now
        self.move_step(step, State.RUNNING)
        self.attempts[step] += 1
        self.running[step] = token
        self.workers[step] = worker_id
        self.step_started[step] = now

    def only_next(self, step: int) -> int | None:
        """Return a step that waits for nothing but this one and was never begun, the first by edges, or None."""
        for after in reversed(self.plan.successors[step]):
            if self.missing[after] == 1 and self.states[after] is State.PENDING and not self.attempts[after]:
                return after
        return None

    def break_promise(self, step: int | None) -> list[tuple[int, str]]:
        """Take back the promise to a step, if there is one, and to those that would follow it; return tokens and whose.

        None stands for no step.
        """
        broken = []
        while step is not None and (promise := self.promised.pop(step, None)) is not None:
            broken.append(promise)
            step = self.promised_after(step)
        return broken

    def promised_after(self, step: int) -> int | None:
        """Return the step that follows this one, if one was promised to."""
        if not self.promised:
            return None
        return next((after for after in self.plan.successors[step] if after in self.promised), None)

    def break_promises(self) -> list[tuple[int, str]]:
        """Take back all promises; return tokens and whose."""
        broken = list(self.promised.values())
        self.promised.clear()
        return broken

    def payload(self, step: int, attempt: int, starts_run: bool) -> Payload:
        """Return what an attempt of a step gets to work with; ``COMING`` where a result is not there yet."""
        source, failures = self.bound.arguments[step], self.failures.get(step)
        return Payload(
            arguments={} if source is NO_ARGUMENTS else self._values(source),
            attempt=attempt,
            failures=dict(failures) if failures else {},
            instance_id=self.instance_id,
            starts_run=starts_run,
        )

    def _values(self, source: Arguments) -> dict[str, Value | tuple[Value, ...]]:
        arguments: dict[str, Value | tuple[Value, ...]] = {}
        for parameter, name in source.from_inputs:
            arguments[parameter] = self.inputs[name]
        for parameter, other in source.from_steps:
            arguments[parameter] = self.results.get(other, COMING)
        if source.variadic is not None:
            parameter, others = source.variadic
            arguments[parameter] = tuple([self.results.get(other, COMING) for other in others]) if others else ()
        return arguments

    # -- ends of steps ------------------------------------------------------------------------------------------------

    def succeed(self, step: int, result: Value, now: float) -> int | None:
        """Settle a step as succeeded, and make ready what only waited for it.

        Returns:
            The step to start now, which was promised to: it is ready, and in no queue.
        """
        self._settle(step, State.SUCCEEDED, now)
        if self.errors:
            self.errors.pop(step, None)
        if self.failures:
            self.failures.pop(step, None)
        if self.uses[step]:
            self.results[step] = result
        elif result.file:
            self.dropped.append(result.file)
        following = None
        for after in self.plan.successors[step]:
            self.missing[after] -= 1
            if not self.missing[after] and self.states[after] is State.PENDING:
                if after in self.promised:
                    self.move_step(after, State.READY)
                    following = after
                else:
                    self.make_ready(after)
        return following

    def fail(self, step: int, now: float) -> bool:
        """Settle a step as failed, and cancel what will not start because of that.

        Returns:
            Whether this is what stops the run.
        """
        was_stopping = self.is_stopping
        self._settle(step, State.FAILED, now, self._problem(step))
        self.failed_steps.append(step)
        stops = self.is_stopping and not was_stopping
        cause = f"step {self.plan.names[step]!r} failed"
        if stops:
            self._stop(cause, now)
        else:
            self._give_up_dependents(step, State.CANCELLED, cause, now)
        return stops

    def retry(self, step: int, due: float, place: int | None) -> None:
        """Let a failed step wait for its next attempt, as the policy at ``place`` decided."""
        if place is not None:
            decided = self.failures.setdefault(step, {})
            decided[place] = decided.get(place, 0) + 1
        self.move_step(step, State.RETRYING, self._problem(step))
        self.due[step] = due

    def skip(self, step: int, now: float) -> None:
        """Settle a step, and all that depend on it, as skipped."""
        self.causes[step] = "a policy chose to skip it"
        self._settle(step, State.SKIPPED, now)
        self._give_up_dependents(step, State.SKIPPED, f"step {self.plan.names[step]!r} was skipped", now)

    def untell_start(self) -> None:
        """Let the next assignment be the one to tell of the start."""
        self.start_token, self.start_differs = 0, True

    def give_back(self, step: int, cause: str, now: float) -> None:
        """Make a step that was handed out ready again, or cancel it if it may not start any more."""
        if self.may_not_start(step):
            self.cancel_step(step, now)
        else:
            self.make_ready(step, cause)

    def cancel_step(self, step: int, now: float) -> None:
        """Settle a step that may not start any more as cancelled."""
        if self.cancelled:
            self.causes[step] = "the run was cancelled"
        elif step in self.unwanted:
            self.causes[step] = "it was cancelled"
        else:
            self.causes[step] = f"step {self.plan.names[self.failed_steps[0]]!r} failed"
        self._settle(step, State.CANCELLED, now)
        self._give_up_dependents(step, State.CANCELLED, f"step {self.plan.names[step]!r} was cancelled", now)

    def reject(self, step: int, now: float) -> None:
        """Let a step not start any more; settle it unless it runs."""
        self.unwanted.add(step)
        if self.states[step] is State.READY:
            self.ready.remove(step)
        if self.states[step] is not State.RUNNING:
            self.cancel_step(step, now)

    def cancel(self, now: float) -> None:
        """Start nothing new, and settle whatever does not run."""
        self.cancelled = True
        self._stop("the run was cancelled", now)

    def time_out(self, now: float) -> None:
        """Settle all steps that have not ended. None of them may have a token any more."""
        self.timed_out = True
        cause = self.plan.timeout_cause
        for step, state in enumerate(self.states):
            if state is State.RUNNING:
                self.causes[step] = cause
                self._settle(step, State.CANCELLED, now)
        self._stop(cause, now)

    def finish_if_done(self, now: float) -> bool:
        """End the run, which has not ended, if all steps are settled; return whether they are."""
        if self.open_steps:
            return False
        if self.timed_out:
            self.move(State.FAILED, self.plan.timeout_cause)
        elif self.cancelled and not all(state in (State.SUCCEEDED, State.SKIPPED) for state in self.states):
            self.move(State.CANCELLED)
        elif self.failed_steps:
            self.move(State.FAILED)
        else:
            was_cut = any(self.states[step] is State.CANCELLED for step in self.unwanted)
            self.move(State.CANCELLED if was_cut else State.SUCCEEDED)
        self.finished = now
        return True

    def _stop(self, cause: str, now: float) -> None:
        self.ready.clear()
        for step, state in enumerate(self.states):
            if state in (State.PENDING, State.READY, State.RETRYING):
                self.causes[step] = cause
                self._settle(step, State.CANCELLED, now)

    def _give_up_dependents(self, step: int, state: State, cause: str, now: float) -> None:
        stack = [step]
        while stack:
            for after in self.plan.successors[stack.pop()]:
                if self.states[after] is State.PENDING:
                    self.causes[after] = cause
                    self._settle(after, state, now)
                    stack.append(after)

    def _problem(self, step: int) -> str:
        """Return the error of the last attempt in a line."""
        error = self.errors.get(step)
        if error is None:
            return ""
        kind = error.type_names[0].rpartition(".")[2] if error.type_names else ""
        return ": ".join(filter(None, [kind, error.message.partition("\n")[0]]))[:_CAUSE_LIMIT]

    def _settle(self, step: int, state: State, now: float, cause: str = "") -> None:
        self.move_step(step, state, cause)
        self.step_finished[step] = now
        if self.due:
            self.due.pop(step, None)
        for source in self.bound.sources[step]:
            self.uses[source] -= 1
            if not self.uses[source]:
                unneeded = self.results.pop(source, None)
                if unneeded is not None and unneeded.file:
                    self.dropped.append(unneeded.file)
