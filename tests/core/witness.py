"""What must be true of a scheduler's answers over time; what must be true at one moment, it can check itself."""

from __future__ import annotations

from collections import Counter

from fuseline.messages import ReportAnswer, ReportStatus, StepAssignment, StepReport
from fuseline.scheduler import Answer, Assign, Command, Event, Finished, Reported, Scheduler, StepsRequested
from fuseline.scheduler.invariants import check_scheduler
from fuseline.scheduler.run import Run
from fuseline.states import State


class Witness:
    """Watches one scheduler from its first event on."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tokens: set[int] = set()
        self._starts: Counter[tuple[str, str]] = Counter()
        self._outcomes: dict[tuple[str, str | None], object] = {}
        self._announced: Counter[str] = Counter()
        self._promised: dict[tuple[str, str], int] = {}  #: {(run, step) that was handed out before its time: its token}
        self._starters: dict[str, tuple[str, str, int]] = {}  #: {run: which attempt, by its step, tells of its start}
        self._causes: Counter[tuple[str, str]] = Counter()  #: of starts after the first, but for restarts

    def follow(self, scheduler: Scheduler) -> None:
        """Watch the scheduler that goes on with the runs of the one so far."""
        self._scheduler = scheduler
        check_scheduler(scheduler)

    def resumed(self, run: Run, anew: set[str]) -> None:
        """Let a run that has ended go on, and some of its steps start anew."""
        self._outcomes.pop((run.instance_id, None))
        self._announced[f"start of {run.instance_id}"] = self._announced[f"end of {run.instance_id}"] = 0
        self._announced[f"end of {run.instance_id}"] += run.state.is_settled
        for name in anew:
            key = (run.instance_id, name)
            self._outcomes.pop(key, None)
            self._causes[key] = run.attempts[run.plan.index[name]]
        check_scheduler(self._scheduler)
        self._see_outcomes(run)  # of one that ends at once, because nothing of it has to start anew

    def see(self, event: Event, commands: list[Command]) -> None:
        """Check what followed from ``event``, and everything that must be true now."""
        assigned = [command for command in commands if isinstance(command, Assign)]
        if assigned:
            assert isinstance(event, StepsRequested), "nobody gets a step without having asked"
            assert {command.worker_id for command in assigned} == {event.worker_id}
            together = [assignment for command in assigned for assignment in command.assignments]
            assert len(together) <= event.limit, "running steps never exceed the slots"
            for before, assignment in zip([None, *together], together, strict=False):
                if assignment.follows is not None:
                    assert event.chains, "chains are for those who can"
                    assert before is not None
                    assert before.token == assignment.follows, "it comes right behind"
                    self._promised[assignment.instance_id, assignment.step_name] = assignment.token
        reports = iter(event.reports if isinstance(event, Reported) else ())
        for command in commands:
            if isinstance(command, Assign):
                for assignment in command.assignments:
                    self._see_assignment(assignment)
            elif isinstance(command, Finished):
                self._see_end(command)
            elif isinstance(command, Answer):
                for answer in command.answers:
                    report = next(reports, None)
                    assert report is not None, "there is an answer to each report, and no other"
                    self._see_answer(report, answer)
        assert next(reports, None) is None, "there is an answer to each report"
        self._see_promises()
        check_scheduler(self._scheduler)
        for run in self._scheduler.runs.values():
            self._see_outcomes(run)

    def _see_assignment(self, assignment: StepAssignment) -> None:
        key = (assignment.instance_id, assignment.step_name)
        run = self._scheduler.run(assignment.instance_id)
        assert assignment.token not in self._tokens, "a token is never used again"
        assert key not in self._outcomes, "no start after an accepted outcome"
        self._tokens.add(assignment.token)
        self._starts[key] += 1
        assert assignment.attempt == assignment.payload.attempt == self._starts[key], (
            "attempt number = number of starts"
        )
        causes = 1 + self._causes[key] + run.restarts.get(run.plan.index[assignment.step_name], 0)
        assert assignment.attempt == causes, "extra starts have a recorded cause"
        if assignment.payload.starts_run:
            self._starters[assignment.instance_id] = (*key, assignment.attempt)
            self._announced[f"start of {run.instance_id}"] += 1
        assert self._announced[f"start of {run.instance_id}"] == 1, "exactly one assignment starts a run"

    def _see_end(self, command: Finished) -> None:
        self._announced[f"end of {command.instance_id}"] += 1
        assert self._announced[f"end of {command.instance_id}"] == 1, "a run ends once"
        assert command.state is self._scheduler.run(command.instance_id).state

    def _see_answer(self, report: StepReport, answer: ReportAnswer) -> None:
        if answer.status is not ReportStatus.ACCEPTED:
            assert (answer.step_state, answer.run_state, answer.delay) == (None, None, 0.0)
        elif answer.step_state is State.PENDING:
            assert report.state is State.READY, "only what was never begun goes on waiting"
            assert self._promised[report.instance_id, report.step_name] == report.token
        else:
            self._promised.pop((report.instance_id, report.step_name), None)  # it has begun
        if answer.step_state in (None, State.PENDING):
            return
        if report.state is State.READY:
            key = (report.instance_id, report.step_name)
            if self._starters[report.instance_id] == (*key, self._starts[key]) and not report.told:
                self._announced[f"start of {report.instance_id}"] = 0  # the next assignment starts it
            self._starts[key] -= 1  # it was never begun
        elif answer.step_state is State.RETRYING:
            self._causes[report.instance_id, report.step_name] += 1

    def _see_promises(self) -> None:
        """Let those go that were kept, and those that were broken, as if nothing had been handed out."""
        for (instance_id, name), token in list(self._promised.items()):
            run = self._scheduler.runs.get(instance_id)
            step = -1 if run is None else run.plan.index[name]
            if run is not None and step in run.promised:
                assert run.promised[step][0] == token
                continue
            del self._promised[instance_id, name]
            if run is None or run.running.get(step) != token:
                self._starts[instance_id, name] -= 1

    def _see_outcomes(self, run: Run) -> None:
        for step, state in enumerate(run.states):
            if state.is_settled:
                outcome = (state, run.attempts[step], run.errors.get(step), run.causes.get(step))
                known = self._outcomes.setdefault((run.instance_id, run.plan.names[step]), outcome)
                assert known == outcome, "an accepted outcome never changes"
        if run.state.is_settled:
            end = (run.state, run.results)
            assert self._outcomes.setdefault((run.instance_id, None), end) == end, "a settled run never changes"
            assert self._announced[f"end of {run.instance_id}"] == 1, "the end of a run is told"
