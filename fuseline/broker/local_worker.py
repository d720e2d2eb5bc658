"""A worker of this program, as a broker process knows it: a link of its own, which is made anew if the broker is."""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from fuseline.broker.base import Traded, encode_report
from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.wire import (
    Answers,
    Done,
    Ended,
    FindUnknown,
    Found,
    FromBroker,
    GetSteps,
    Happened,
    Know,
    News,
    Register,
    Registered,
    ReportSteps,
    Steps,
    ToBroker,
    Trade,
    Unregister,
)
from fuseline.errors import BrokerError, FuselineError, StoreError
from fuseline.messages import KillNotice, Notice, Payload, ReportAnswer, ReportStatus, StepAssignment, StepReport
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import Value, encode_own_error
from fuseline.wakeup import Wakeup, wait_readable
from fuseline.workplace import LARGE, Workplace

__all__ = ["LocalWorker"]

#: Seconds for which to try to reach a broker that ends again and again, and between two tries.
_PATIENCE = 20.0
_PAUSE = 0.02

R = TypeVar("R", bound=FromBroker)


class _News:
    """Readable when the broker has said something unasked, or something was noticed that it said meanwhile."""

    def __init__(self, read: Callable[[], None]) -> None:
        self._read = read
        self._wakeup = Wakeup()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup.fileno(), selectors.EVENT_READ)
        self._watched: int | None = None

    def watch(self, fd: int) -> None:
        """Be readable when a link is."""
        self._watched = fd
        self._selector.register(fd, selectors.EVENT_READ)

    def unwatch(self) -> None:
        """Let go of the link."""
        if self._watched is not None:
            self._selector.unregister(self._watched)
            self._watched = None

    def fileno(self) -> int:
        fd: int = self._selector.fileno()
        return fd

    def set(self) -> None:
        self._wakeup.set()

    def clear(self) -> None:
        self._read()
        self._wakeup.clear()

    def close(self) -> None:
        self._selector.close()
        self._wakeup.close()


OnPush = Callable[[News | Happened], None]


class LocalWorker:
    """A worker that has registered.

    Args:
        connect: gives a link to the broker, which it starts again if it has gone.
        workplace: tells where large results go.
    """

    def __init__(
        self,
        connect: Callable[[OnPush], ClientLink],
        worker_id: str,
        schemas: Sequence[WorkflowSchema],
        workplace: Callable[[], Workplace],
    ) -> None:
        self._workplace = workplace
        self.worker_id = worker_id
        self.thread = threading.current_thread()  #: in which it was made, and works, as a rule
        self.unsettled = 0  #: as the broker has said last
        self.news = _News(self._read_news)
        self._connect = connect
        self._is_over = False  #: whether the broker was left
        self.is_followed = False  #: whether somebody has ``news``, and calls ``close`` when he is done with it
        self._schemas = schemas
        self._lock = threading.RLock()
        self._notices: list[Notice] = []
        self._held: dict[int, tuple[str, str, Payload]] = {}  #: {token: (run, step, what the worker was given)}
        self._room = 0  #: for how many more steps, as the broker knows
        self._seen = 0  #: steps that this link has brought for it
        self._unanswered: deque[Ended] = deque()  #: reports that were traded
        self._answers: list[ReportAnswer] = []  #: to those before them, that ``trade`` has not returned yet
        self._assignments: list[StepAssignment] = []  #: likewise
        try:
            self._link = self._connected()
        except BaseException:
            self.news.close()
            raise

    def serves(self, workflow_id: str) -> bool:
        """Return whether it takes steps of this workflow."""
        return any(schema.workflow_id == workflow_id for schema in self._schemas)

    # -- the link -----------------------------------------------------------------------------------------------------

    def _register(self) -> ClientLink:
        """Return a link on which the broker knows this worker, and what it has."""
        link = self._connect(self._on_push)
        try:
            workflows = [(schema.workflow_id, schema.fingerprint) for schema in self._schemas]
            unknown = link.call(FindUnknown(workflows), Found).texts
            for schema in self._schemas:
                if schema.workflow_id in unknown:
                    link.call(Know(schema.to_json()), Done)
            registered = link.call(Register(self.worker_id, workflows, list(self._held)), Registered)
        except BaseException:
            link.close()
            raise
        self._notices += map(KillNotice, registered.void)
        self.unsettled = registered.unsettled
        self._seen = 0
        if self._room or self._unanswered:
            link.post(Trade(list(self._unanswered), self._room, 0, again=True))
        self.news.watch(link.fileno())
        return link

    def _call(self, request: ToBroker, kind: type[R]) -> R:
        """Send a request, over a new link if this one has gone, and return its reply."""
        with self._lock:
            while True:
                try:
                    return self._link.call(request, kind)
                except LinkLost:
                    self._reconnect()
                    if isinstance(request, ReportSteps):
                        request = replace(request, again=True)

    def _reconnect(self) -> None:
        self._check_open()
        self.news.unwatch()
        self._link.close()
        self._link = self._connected()
        self.news.set()  # whatever is known of the broker may be out of date

    def _connected(self) -> ClientLink:
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._register()
            except LinkLost as error:  # that broker has gone, too
                if time.monotonic() >= give_up:
                    raise BrokerError(
                        "the broker process ends again and again. See broker.log beside its store."
                    ) from error
                time.sleep(_PAUSE)

    def _read_news(self) -> None:
        with self._lock:
            try:
                self._link.take_pushed()
            except LinkLost:
                self._reconnect()

    def _on_push(self, message: News | Happened) -> None:
        if not isinstance(message, News):
            return
        self.unsettled = message.unsettled
        self._notices += message.notices
        for _ in message.answers:
            self._held.pop(self._unanswered.popleft().token or 0, None)
        self._answers += message.answers
        self._take_in(message.assignments)
        self._assignments += message.assignments
        self._seen += len(message.assignments)
        self._room -= len(message.assignments)
        self.news.set()

    def _take_in(self, assignments: Sequence[StepAssignment]) -> None:
        for each in assignments:
            self._held[each.token] = (each.instance_id, each.step_name, each.payload)

    # -- working ------------------------------------------------------------------------------------------------------

    def get_steps(self, limit: int) -> list[StepAssignment]:
        """Return up to ``limit`` steps to run."""
        with self._lock:
            steps = self._call(GetSteps(limit), Steps)
            self.unsettled = steps.unsettled
            self._take_in(steps.assignments)
        return steps.assignments

    def wait(self, seconds: float | None) -> None:
        """Wait for news, up to so many seconds (None: for ever)."""
        wait_readable([self.news.fileno()], seconds)
        self.news.clear()

    def trade(self, reports: Sequence[StepReport], room: int) -> Traded:
        """Say how assignments have ended, and for how many more there is room; return what has come meanwhile."""
        ended = [Ended.of(self._kept(encode_report(report, None))) for report in reports]
        with self._lock:
            self._check_open()
            room = max(0, room - len(self._assignments))  # those that are here already will take some of it
            if ended or room != self._room:
                self._unanswered += ended
                self._room = room
                try:
                    self._link.post(Trade(ended, room, self._seen))
                except LinkLost:
                    self._reconnect()  # where all of it is sent again
            traded = Traded(self._answers, self._assignments)
            self._answers, self._assignments = [], []
        return traded

    def report_steps(self, reports: Sequence[StepReport]) -> list[ReportAnswer]:
        """Say how assignments have ended, and return what the broker made of it."""
        with self._lock:
            complete = [self._complete(report) for report in reports]
            encoded = [self._kept(encode_report(report, payload)) for report, payload in complete]
            answers = self._call(ReportSteps(list(map(Ended.of, encoded))), Answers)
            self.unsettled = answers.unsettled
            for report in encoded:
                self._held.pop(report.token or 0, None)
        for (_, payload), answer in zip(complete, answers.answers, strict=True):
            if payload is not None and payload.note is not None and answer.status is ReportStatus.ACCEPTED:
                payload.note.hear(answer)
        return answers.answers

    def _kept(self, report: StepReport) -> StepReport:
        """Return a report whose result is in a file, if it is large."""
        if not isinstance(report.result, Value) or len(report.result.data) <= LARGE:
            return report
        try:
            result = self._workplace().keep(report.result, f"the result of step {report.step_name!r}")
        except StoreError as error:
            return replace(report, state=State.FAILED, result=None, error=encode_own_error(error))
        return replace(report, result=result)

    def _complete(self, report: StepReport) -> tuple[StepReport, Payload | None]:
        """Return a report with its token, and the payload where ``_execute_step`` may have left a note."""
        if report.token is not None:
            _, _, payload = self._held.get(report.token, ("", "", None))
            return report, payload
        for token, (instance_id, step_name, payload) in self._held.items():
            if (instance_id, step_name) == (report.instance_id, report.step_name):
                return replace(report, token=token), payload
        return report, None

    def take_notices(self) -> list[Notice]:
        """Return what the worker should know since the last call, but for what is about assignments to come."""
        with self._lock:
            to_come = {each.token for each in self._assignments}
            notices = self._notices
            self._notices = [each for each in notices if getattr(each, "token", None) in to_come]
            return [each for each in notices if getattr(each, "token", None) not in to_come]

    def close(self) -> None:
        """Say goodbye, unless the broker was left before."""
        with self._lock:
            try:
                if not self._is_over:
                    self._say_goodbye()
            finally:
                self._is_over = True
                self._link.close()
                self.news.close()

    def leave(self) -> bool:
        """Leave the broker, though somebody may be using this worker: he gets an error.

        Returns:
            Whether nothing runs here. If something may, nothing is said: the broker finds it out as if we were killed.
        """
        with self._lock:
            is_idle = not self._held
            try:
                if is_idle:
                    with contextlib.suppress(LinkLost, FuselineError):
                        self._say_goodbye()  # what comes meanwhile is void, and never looked at
            finally:
                self._is_over = True
                self._link.close()
                self.news.set()
                if not self.is_followed:
                    self.news.close()
        return is_idle

    def _check_open(self) -> None:
        if self._is_over:
            raise BrokerError("this LocalBroker is closed. Make another one.")

    def _say_goodbye(self) -> None:
        """Tell the broker that nothing runs here any more: while our program lives, it cannot find that out."""
        goodbye = Unregister(list(self._held))
        try:
            self._link.call(goodbye, Done)
        except LinkLost:
            self._reconnect()
            self._link.call(goodbye, Done)

    @property
    def is_waiting(self) -> bool:
        """Whether the broker has not answered a report yet."""
        return bool(self._unanswered)

    @property
    def is_at_work(self) -> bool:
        """Whether it holds assignments."""
        return bool(self._held)
