"""MemoryBroker: the stream of what happens, of one run or of all."""

from __future__ import annotations

import math
import threading

import pytest

from fuseline import MemoryBroker
from fuseline.messages import FailureDecision
from fuseline.states import State

from .brokers import SCHEMA, in_thread
from .helpers import HANG, FakeClock, report_of


def drain(stream):
    """Return what has happened so far, as ``"run step STATE"``."""
    lines = []
    while (event := stream.next_event(timeout=0)) is not None:
        lines.append(f"{event.step_name or 'run'} {event.state}")
    return lines


def test_an_event_tells_attempt_cause_and_time():
    clock = FakeClock()
    broker = MemoryBroker(clock=clock)
    worker = broker.register_worker([SCHEMA])
    run = broker.dispatch_workflow(SCHEMA)
    created = broker.get_run(run).created_at
    with broker.events(run) as stream:
        clock.advance(2.0)
        final = FailureDecision(FailureDecision.FAIL)
        broker.report_step(worker, report_of(broker.get_step(worker), State.FAILED, decision=final))
        events = list(stream)
    last = {event.step_name: event for event in events}
    assert (last["a"].state, last["a"].attempt, last["a"].at) == (State.FAILED, 1, created + 2.0)
    assert (last["b"].state, last["b"].cause) == (State.CANCELLED, "step 'a' failed")
    assert (last[None].state, last[None].attempt) == (State.FAILED, None)


def test_an_iteration_wakes_with_each_event_and_ends_when_another_thread_closes_it(broker, waits):
    stream = broker.events()
    seen = threading.Event()

    def follow():
        events = []
        for event in stream:
            events.append(event.state)
            seen.set()
        return events

    with in_thread(follow) as following:
        waits.wait_begun()
        broker.dispatch_workflow(SCHEMA)
        assert seen.wait(HANG)
        stream.close()
        assert following.result(HANG) == [State.READY]
    stream.close()


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300])
def test_an_event_may_be_waited_for_for_ages(broker, waits, timeout):
    with broker.events() as stream, in_thread(lambda: stream.next_event(timeout)) as waiting:
        waits.wait_begun()
        broker.dispatch_workflow(SCHEMA)
        assert waiting.result(HANG).state is State.READY


def test_nobody_is_told_anything_after_the_last_stream_is_closed(broker):
    one, other = broker.events(), broker.events()
    one.close()
    broker.dispatch_workflow(SCHEMA)
    assert drain(one) == []
    assert drain(other) == ["a READY"]
    other.close()
    assert broker._scheduler.watched is False
    broker.dispatch_workflow(SCHEMA)
    assert drain(other) == []
