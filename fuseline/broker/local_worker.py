"""A worker of this program, as a broker process knows it: a link of its own, which is made anew if the broker is."""

from __future__ import annotations

import contextlib
import select
import selectors
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from fuseline.broker.base import encode_report
from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.wire import (
    Answers,
    Done,
    Ended,
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
    Unregister,
)
from fuseline.messages import KillNotice, Notice, Payload, ReportAnswer, ReportStatus, StepAssignment, StepReport
from fuseline.schema import WorkflowSchema
from fuseline.wakeup import Wakeup

__all__ = ["LocalWorker"]

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
    """

    def __init__(
        self, connect: Callable[[OnPush], ClientLink], worker_id: str, schemas: Sequence[WorkflowSchema]
    ) -> None:
        self.worker_id = worker_id
        self.unsettled = 0  #: as the broker has said last
        self.next_due: float | None = None  #: likewise; monotonic seconds
        self.news = _News(self._read_news)
        self._connect = connect
        self._schemas = schemas
        self._lock = threading.RLock()
        self._notices: list[Notice] = []
        self._held: dict[int, tuple[str, str, Payload]] = {}  #: {token: (run, step, what the worker was given)}
        self._link = self._connected()

    # -- the link -----------------------------------------------------------------------------------------------------

    def _register(self) -> ClientLink:
        """Return a link on which the broker knows this worker, and what it has."""
        link = self._connect(self._on_push)
        try:
            for schema in self._schemas:
                link.call(Know(schema.to_json()), Done)
            workflows = [(schema.workflow_id, schema.fingerprint) for schema in self._schemas]
            registered = link.call(Register(self.worker_id, workflows, list(self._held)), Registered)
        except BaseException:
            link.close()
            raise
        self._notices += map(KillNotice, registered.void)
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

    def _reconnect(self) -> None:
        self.news.unwatch()
        self._link.close()
        self._link = self._connected()
        self.news.set()  # whatever is known of the broker may be out of date

    def _connected(self) -> ClientLink:
        while True:
            try:
                return self._register()
            except LinkLost:  # that broker has gone, too
                continue

    def _read_news(self) -> None:
        with self._lock:
            try:
                self._link.take_pushed()
            except LinkLost:
                self._reconnect()

    def _on_push(self, message: News | Happened) -> None:
        if isinstance(message, News):
            self._notices += message.notices
            self.unsettled, self.next_due = message.unsettled, message.next_due
            self.news.set()

    # -- working ------------------------------------------------------------------------------------------------------

    def get_steps(self, limit: int) -> list[StepAssignment]:
        """Return up to ``limit`` steps to run."""
        with self._lock:
            steps = self._call(GetSteps(limit), Steps)
            self.unsettled, self.next_due = steps.unsettled, steps.next_due
            for each in steps.assignments:
                self._held[each.token] = (each.instance_id, each.step_name, each.payload)
        return steps.assignments

    def wait(self, seconds: float | None) -> None:
        """Wait for news, up to so many seconds (None: for ever)."""
        select.select([self.news.fileno()], [], [], seconds)
        self.news.clear()

    def report_steps(self, reports: Sequence[StepReport]) -> list[ReportAnswer]:
        """Say how assignments have ended, and return what the broker made of it."""
        with self._lock:
            complete = [self._complete(report) for report in reports]
            encoded = [encode_report(report, payload) for report, payload in complete]
            answers = self._call(ReportSteps(list(map(Ended.of, encoded))), Answers)
            self.unsettled = answers.unsettled
            for report in encoded:
                self._held.pop(report.token or 0, None)
        for (_, payload), answer in zip(complete, answers.answers, strict=True):
            if payload is not None and payload.note is not None and answer.status is ReportStatus.ACCEPTED:
                payload.note.hear(answer)
        return answers.answers

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
        """Return what the worker should know since the last call."""
        with self._lock:
            notices, self._notices = self._notices, []
        return notices

    def close(self) -> None:
        """Say goodbye."""
        with self._lock:
            with contextlib.suppress(LinkLost):
                self._link.call(Unregister(), Done)
            self._link.close()
            self.news.close()
