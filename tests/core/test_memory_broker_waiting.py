"""MemoryBroker: waiting for steps, results and events, and being used from many threads."""

from __future__ import annotations

import math
import os
import select
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fuseline import MemoryBroker
from fuseline.broker import throttle
from fuseline.errors import RunFailed, RunNotFinished, UnknownWorkerError
from fuseline.messages import FailureDecision
from fuseline.states import State

from .brokers import SCHEMA, finish, in_thread
from .helpers import ACCEPTED, HANG, FakeClock, dag, report_of

# -- waiting for a step -----------------------------------------------------------------------------------------------


def test_get_step_wakes_when_another_thread_dispatches(broker, waits):
    worker = broker.register_worker([SCHEMA])
    with in_thread(lambda: broker.get_step(worker, timeout=HANG)) as waiting:
        waits.wait_begun()
        run = broker.dispatch_workflow(SCHEMA)
        assert waiting.result(HANG).instance_id == run


def test_get_step_wakes_when_a_report_of_another_worker_makes_a_step_ready(broker, waits):
    first, second = broker.register_worker([SCHEMA]), broker.register_worker([SCHEMA])
    broker.dispatch_workflow(SCHEMA)
    a = broker.get_step(first)
    with in_thread(lambda: broker.get_step(second, timeout=HANG)) as waiting:
        waits.wait_begun()
        broker.report_step(first, report_of(a, State.SUCCEEDED))
        assert waiting.result(HANG).step_name == "b"


def test_get_step_wakes_when_another_worker_leaves(broker, waits):
    first, second = broker.register_worker([SCHEMA]), broker.register_worker([SCHEMA])
    broker.dispatch_workflow(SCHEMA)
    broker.get_step(first)
    with in_thread(lambda: broker.get_step(second, timeout=HANG)) as waiting:
        waits.wait_begun()
        broker.unregister_worker(first)
        assert waiting.result(HANG).attempt == 2


def test_get_step_goes_on_waiting_when_what_came_was_for_others(broker, waits):
    other = dag("x", name="other")
    worker = broker.register_worker([SCHEMA])
    with in_thread(lambda: broker.get_step(worker, timeout=HANG)) as waiting:
        waits.wait_begun()
        broker.dispatch_workflow(other)
        waits.wait_begun()
        broker.dispatch_workflow(SCHEMA)
        assert waiting.result(HANG).workflow_id == "wf"


def test_get_step_gives_up_when_its_time_is_over():
    clock = FakeClock()
    broker = MemoryBroker(clock=clock)
    worker = broker.register_worker([SCHEMA])
    broker._changed.wait = clock.advance
    assert broker.get_step(worker, timeout=3.0) is None
    assert clock.now == 1003.0


def test_get_step_waits_for_a_retry_that_comes_due_in_its_time():
    clock = FakeClock()
    broker = MemoryBroker(clock=clock)
    worker = broker.register_worker([SCHEMA])
    broker.dispatch_workflow(SCHEMA)
    broker.report_step(worker, report_of(broker.get_step(worker), State.FAILED))
    broker._changed.wait = clock.advance
    assert broker.get_step(worker, timeout=3.0) is None
    again = broker.get_step(worker, timeout=60.0)
    assert (again.attempt, clock.now) == (2, 1004.0)


def test_get_step_hears_of_a_retry_that_is_set_while_it_waits():
    clock = FakeClock()
    broker = MemoryBroker(clock=clock)
    first, second = broker.register_worker([SCHEMA]), broker.register_worker([SCHEMA])
    broker.dispatch_workflow(SCHEMA)
    assignment = broker.get_step(first)
    woken = []
    broker._changed.notify_all = lambda: woken.append(True)

    def wait(timeout):
        if not woken:  # the first time: meanwhile the other worker reports
            broker.report_step(first, report_of(assignment, State.FAILED))
            assert woken, "nobody tells the sleeper that its next step is due before its time is over"
        else:
            clock.advance(timeout)

    broker._changed.wait = wait
    again = broker.get_step(second, timeout=60.0)
    assert (again.attempt, clock.now) == (2, 1004.0)


def test_get_step_of_a_worker_that_is_unregistered_meanwhile_ends_with_an_error(broker, waits):
    worker = broker.register_worker([SCHEMA])
    with in_thread(lambda: broker.get_step(worker, timeout=HANG)) as waiting:
        waits.wait_begun()
        broker.unregister_worker(worker)
        broker.dispatch_workflow(SCHEMA)  # wakes it, if nothing else has
        with pytest.raises(UnknownWorkerError):
            waiting.result(HANG)


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 1e10])
def test_get_step_may_wait_for_ages(broker, waits, timeout):
    worker = broker.register_worker([SCHEMA])
    with in_thread(lambda: broker.get_step(worker, timeout)) as waiting:
        waits.wait_begun()
        run = broker.dispatch_workflow(SCHEMA)
        assert waiting.result(HANG).instance_id == run


# -- waiting for a result ---------------------------------------------------------------------------------------------


def test_result_waits_for_the_end_of_the_run(broker, waits):
    worker = broker.register_worker([SCHEMA])
    run = broker.dispatch_workflow(SCHEMA)
    with in_thread(lambda: broker.result(run, timeout=HANG)) as waiting:
        waits.wait_begun()
        finish(broker, worker)
        assert waiting.result(HANG) == "b"


def test_result_waits_for_a_failure_too(broker, waits):
    worker = broker.register_worker([SCHEMA])
    run = broker.dispatch_workflow(SCHEMA)
    with in_thread(lambda: broker.result(run, timeout=HANG)) as waiting:
        waits.wait_begun()
        final = FailureDecision(FailureDecision.FAIL)
        broker.report_step(worker, report_of(broker.get_step(worker), State.FAILED, decision=final))
        with pytest.raises(RunFailed):
            waiting.result(HANG)


def test_result_gives_up_when_its_time_is_over():
    clock = FakeClock()
    broker = MemoryBroker(clock=clock)
    run = broker.dispatch_workflow(SCHEMA)
    broker._changed.wait = clock.advance
    with pytest.raises(RunNotFinished, match="is PENDING"):
        broker.result(run, timeout=3.0)
    assert clock.now == 1003.0


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 1e10])
def test_result_may_wait_for_ages(broker, waits, timeout):
    worker = broker.register_worker([SCHEMA])
    run = broker.dispatch_workflow(SCHEMA)
    with in_thread(lambda: broker.result(run, timeout)) as waiting:
        waits.wait_begun()
        finish(broker, worker)
        assert waiting.result(HANG) == "b"


# -- news -------------------------------------------------------------------------------------------------------------


def readable(waitable) -> bool:
    return bool(select.select([waitable.fileno()], [], [], 0)[0])


@pytest.fixture
def idle(broker):
    """A worker that has found nothing to do, and its news."""
    worker = broker.register_worker([SCHEMA])
    news = broker.news(worker)
    assert broker.get_step(worker) is None
    news.clear()
    assert not readable(news)
    yield worker, news
    if worker in broker._mailboxes:
        broker.unregister_worker(worker)


def test_news_become_readable_when_there_is_something_to_do(broker, idle):
    _, news = idle
    broker.dispatch_workflow(SCHEMA)
    assert readable(news)
    news.clear()
    assert not readable(news)


def test_news_stay_quiet_about_the_workflows_of_others(broker, idle):
    _, news = idle
    broker.dispatch_workflow(dag("x", name="other"))
    assert not readable(news)


def test_news_become_readable_when_a_report_of_another_makes_a_step_ready(broker, idle):
    _, news = idle
    other = broker.register_worker([SCHEMA])
    broker.dispatch_workflow(SCHEMA)
    news.clear()
    assignment = broker.get_step(other)
    assert broker.get_step(idle[0]) is None
    broker.report_step(other, report_of(assignment, State.SUCCEEDED))
    assert readable(news)


def test_news_become_readable_when_a_retry_is_set_by_another(broker, idle):
    worker, news = idle
    other = broker.register_worker([SCHEMA])
    broker.dispatch_workflow(SCHEMA)
    assignment = broker.get_step(other)
    assert broker.get_step(worker) is None
    news.clear()
    broker.report_step(other, report_of(assignment, State.FAILED))
    assert readable(news)


def test_news_become_readable_when_there_is_a_notice(broker, idle):
    worker, news = idle
    run = broker.dispatch_workflow(SCHEMA)
    broker.get_step(worker)
    news.clear()
    broker.cancel(run)
    assert readable(news)
    assert broker.keep_alive(worker)


def test_news_become_readable_when_the_last_run_ends_elsewhere(broker, idle):
    worker, news = idle
    other = broker.register_worker([SCHEMA])
    broker.dispatch_workflow(SCHEMA)
    a = broker.get_step(other)
    broker.report_step(other, report_of(a, State.SUCCEEDED))
    b = broker.get_step(other)
    assert broker.get_step(worker) is None
    news.clear()
    broker.report_step(other, report_of(b, State.SUCCEEDED))
    assert readable(news)
    assert broker.unsettled(worker) == 0


def test_news_are_one_descriptor_that_is_closed_when_the_worker_unregisters(broker):
    worker = broker.register_worker([SCHEMA])
    news = broker.news(worker)
    assert broker.news(worker) is news
    descriptor = news.fileno()
    os.fstat(descriptor)
    broker.unregister_worker(worker)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# -- many threads -----------------------------------------------------------------------------------------------------


def test_eight_threads_dispatch_and_work_200_runs_each(broker):
    threads, each = 8, 200
    started = threading.Barrier(threads)
    done = threading.Event()

    def serve(number):
        worker = broker.register_worker([SCHEMA])
        started.wait(HANG)
        runs = [broker.dispatch_workflow(SCHEMA) for _ in range(each // 2)]
        runs += broker.dispatch_many(SCHEMA, [None] * (each // 2))
        statuses = []
        while broker.unsettled(worker) and not done.is_set():
            for assignment in broker.get_steps(worker, 3):
                report = report_of(assignment, State.SUCCEEDED, result=(number, assignment.step_name))
                statuses.append(broker.report_step(worker, report).status)
        broker.unregister_worker(worker)
        return runs, statuses

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(serve, number) for number in range(threads)]
        try:
            outcomes = [future.result(3 * HANG) for future in futures]
        finally:
            done.set()
    runs = [run for each_runs, _ in outcomes for run in each_runs]
    statuses = [status for _, each_statuses in outcomes for status in each_statuses]
    assert len(set(runs)) == threads * each
    assert statuses == [ACCEPTED] * (2 * threads * each)
    assert {broker.result(run)[1] for run in runs} == {"b"}
    assert {info.state for info in broker.list_runs()} == {State.SUCCEEDED}
    assert broker._mailboxes == {}


# -- a producer that is faster than its workers -----------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Let few runs be many."""
    monkeypatch.setattr(throttle, "_MOST_STEPS", 0)
    monkeypatch.setattr(throttle, "_MOST_RUNS", 3)


def test_an_iterator_of_runs_is_read_as_fast_as_workers_take_them_away(broker, waits, few):
    worker = in_thread_of_its_own(lambda: broker.register_worker([SCHEMA]))
    read = []

    def inputs():
        for number in range(5):
            read.append(number)
            yield {}

    with in_thread(lambda: broker.dispatch_many(SCHEMA, inputs())) as dispatching:
        waits.wait_begun()
        assert read == [0, 1, 2, 3]  # the last one waits for its dispatch
        for _ in range(2):
            run = broker.list_runs(state=State.PENDING)[0].instance_id
            broker.cancel(run)
        assert len(dispatching.result(HANG)) == 5
    assert worker


@pytest.mark.parametrize("who", ["nobody", "the same thread", "another workflow"])
def test_who_dispatches_does_not_wait_where_nobody_could_take_anything_away(broker, few, who):
    if who == "the same thread":
        broker.register_worker([SCHEMA])
    elif who == "another workflow":
        in_thread_of_its_own(lambda: broker.register_worker([dag("x", name="other")]))
    assert len(broker.dispatch_many(SCHEMA, iter([{}] * 10))) == 10


def test_what_has_a_length_does_not_wait(broker, few):
    in_thread_of_its_own(lambda: broker.register_worker([SCHEMA]))
    assert len(broker.dispatch_many(SCHEMA, [{}] * 10)) == 10


def test_nobody_waits_for_ever_for_workers_that_do_nothing(broker, few, monkeypatch, caplog):
    monkeypatch.setattr(throttle, "_PATIENCE", 0.01)
    in_thread_of_its_own(lambda: broker.register_worker([SCHEMA]))
    assert len(broker.dispatch_many(SCHEMA, iter([{}] * 10))) == 10
    [record] = caplog.records
    assert "no run of workflow 'wf' has ended in 0.01 s" in record.getMessage()


def test_when_the_last_worker_leaves_the_producer_goes_on(broker, waits, few):
    worker = in_thread_of_its_own(lambda: broker.register_worker([SCHEMA]))
    with in_thread(lambda: broker.dispatch_many(SCHEMA, iter([{}] * 10))) as dispatching:
        waits.wait_begun()
        broker.unregister_worker(worker)
        assert len(dispatching.result(HANG)) == 10


def in_thread_of_its_own(call):
    """Return ``call()``, made in another thread, which has ended then."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()
