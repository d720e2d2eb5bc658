"""What steps print and log: seen at once, kept per attempt, bounded, and at the end of errors."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuseline import Broker, LocalBroker, MemoryBroker, ProcessEngine, RunFailed, StepCrashed, Workflow
from fuseline.broker.outputs import Outputs
from fuseline.errors import StepTimedOut, UnknownRunError, UnknownStepError
from fuseline.executors import LokyExecutor
from fuseline.executors.pump import Pump
from fuseline.logs import Logged
from fuseline.messages import AttemptReport, Outcome
from fuseline.policies import RetryPolicy, StepTimeoutPolicy
from fuseline.processes.output import KEPT, Output
from fuseline.testing import Bench, Gate
from fuseline.testing.contract import error_of, result_of
from fuseline.testing.gate import HANG

from .printing_steps import (
    FailTwice,
    Flood,
    FloodForEver,
    HandlesSigtermInAFork,
    Log,
    LogForEver,
    LogInAFork,
    LogInASignalHandler,
    Print,
    PrintAndDie,
    PrintAndFail,
    PrintAndHang,
    PrintAndWait,
    Say,
    SayNothing,
    SayTwice,
    WriteToTheDescriptor,
)


def test_all_that_an_attempt_writes_is_kept_and_seen(capfd: pytest.CaptureFixture[str]) -> None:
    step = Print()
    with Bench(LokyExecutor(1), step) as bench:
        bench.run(step, text="hello")
        report = bench.run(step, text="again")
    means = ("print", "stderr", "buffer", "descriptor", "a subprocess")
    expected = {*(f"again by {name}" for name in means), "again without an end of line"}
    expected.add("WARNING some.library: again by logging")
    unended = "again without an end of line"  # what comes after it is of the other stream
    assert set(filter(None, report.output.replace(unended, f"{unended}\n").splitlines())) == expected
    seen, errors = capfd.readouterr()
    assert "hello without an end of lineagain by print\n" in seen
    assert "hello by a subprocess\n" in seen
    assert "by stderr" not in seen
    assert "hello by stderr\nagain by stderr\n" in errors


def test_output_belongs_to_its_attempt_however_short_that_is() -> None:
    step = Say()
    texts = [f"{i}" * (i % 7) for i in range(500)]
    workflow = Workflow(outputs=[step])
    broker = MemoryBroker()
    runs = broker.dispatch_many(workflow.to_schema(), [{"text": text} for text in texts])
    ProcessEngine(broker, [workflow], processes=2).work()
    assert [broker.get_output(run, "Say") for run in runs] == [f"{text}\n" for text in texts]


def test_who_prints_nothing_has_no_output() -> None:
    say, nothing = Say(), SayNothing()
    with Bench(LokyExecutor(1), say, nothing) as bench:
        bench.run(say, text="mine")
        assert bench.run(nothing).output == ""


# -- failures ---------------------------------------------------------------------------------------------------------


def note_of(report: AttemptReport) -> str:
    [note] = error_of(report).__notes__
    return note


def test_an_error_says_where_it_happened_and_what_was_printed_last() -> None:
    step = PrintAndFail()
    with Bench(LokyExecutor(1), step) as bench:
        report = bench.run(step)
    assert isinstance(error_of(report), ValueError)
    first, *rest = note_of(report).splitlines()
    assert first.startswith("in step 'PrintAndFail' of run run, attempt 1, in child process ")
    assert first.endswith(", which printed last:")
    assert rest == ["  | \\x1b[31mred"]  # it cannot play tricks on the terminal
    assert report.output == "\x1b[31mred\n"


def test_a_step_that_was_killed_says_where_it_hung_in_c_code_too(capfd: pytest.CaptureFixture[str]) -> None:
    step = PrintAndHang(policies=[StepTimeoutPolicy(0.3)])
    with Bench(LokyExecutor(1), step) as bench:
        report = bench.run(step)
    assert isinstance(error_of(report), StepTimedOut)
    lines = note_of(report).splitlines()
    assert lines[1] == "  | about to hang"
    assert lines[-2].endswith(" in hang_here")
    assert lines[-1].endswith(" in run_step")
    seen, errors = capfd.readouterr()
    assert seen == "about to hang\n"
    assert "hang_here" not in errors


def test_a_crash_in_c_code_says_where() -> None:
    step = PrintAndDie()
    with Bench(LokyExecutor(1), step) as bench:
        report = bench.run(step, how="in C")
    error = error_of(report)
    assert isinstance(error, StepCrashed)
    assert error.signal_name == "SIGSEGV"
    assert f"in child process {error.pid}, which printed last:\n  | about to die\n" in note_of(report)
    assert "string_at" in note_of(report)
    assert note_of(report).splitlines()[-1].endswith(" in run_step")


def test_a_step_that_is_killed_leaves_what_it_has_printed() -> None:
    step = PrintAndDie()
    with Bench(LokyExecutor(1), step) as bench:
        report = bench.run(step, how="SIGKILL")
    assert report.output == "about to die\n"
    assert "run out of memory" in str(error_of(report))


def test_a_step_that_is_cancelled_leaves_what_it_has_printed(gate: Gate) -> None:
    step = PrintAndWait()
    with Bench(LokyExecutor(1), step) as bench:
        token = bench.submit(step, gate=gate)
        gate.wait_entered()
        bench.executor.kill(token)
        report = bench.collect(1)[token]
    assert report.outcome is Outcome.KILLED
    assert report.output.startswith("before the gate\n")


def test_what_is_printed_is_seen_before_the_step_ends(gate: Gate) -> None:
    seen = threading.Event()

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            if "before the gate" in text:
                seen.set()
            return super().write(text)

    step = PrintAndWait()
    with Bench(LokyExecutor(1), step) as bench, contextlib.redirect_stdout(Screen()):
        bench.submit(step, gate=gate)
        gate.wait_entered()
        give_up = time.monotonic() + HANG
        while not seen.is_set():
            assert time.monotonic() < give_up
            assert bench.executor.poll() == []
            select.select([bench.executor.fileno()], [], [], 0.05)
        gate.open()
        bench.collect(1)


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_of_a_flood_the_end_is_kept_and_its_neighbours_go_on() -> None:
    flood, say = Flood(), Say()
    workflows = [Workflow(outputs=[flood], name="flood"), Workflow(outputs=[say], name="say")]
    broker = MemoryBroker()
    run = broker.dispatch_workflow(workflows[0].to_schema(), {"kib": 4096})
    others = broker.dispatch_many(workflows[1].to_schema(), [{"text": f"{i}"} for i in range(20)])
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        ProcessEngine(broker, workflows, processes=2).work()
    assert [broker.result(other) for other in others] == [f"{i}" for i in range(20)]
    output = broker.get_output(run, "Flood")
    assert len(output) < KEPT + 100
    assert output.startswith("[... 4,1")
    assert output.endswith("x\nthe end\n")
    assert len(screen.getvalue()) > 4096 * 1024  # all of it was seen


def test_a_flood_without_end_ends_at_its_timeout_though_nobody_reads() -> None:
    step, say = FloodForEver(policies=[StepTimeoutPolicy(0.5)]), Say()
    with screen_that_is_stuck() as unread, Bench(LokyExecutor(1), step, say) as bench:
        report = bench.run(step)
        assert report.outcome is Outcome.TIMED_OUT
        assert len(report.output) < KEPT + 5000
        assert result_of(bench.run(say, text="on")) == "on"
        drain(unread)


def test_a_log_without_end_ends_at_its_timeout_though_its_handler_is_stuck() -> None:
    step, say = LogForEver(policies=[StepTimeoutPolicy(0.5)]), Say()
    goes_on = threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert goes_on.wait(HANG)

    logger, stuck = logging.getLogger("some.library"), Stuck()
    logger.addHandler(stuck)
    try:
        with Bench(LokyExecutor(2), step, say) as bench:
            bench.submit(step)
            assert result_of(bench.run(say, text="meanwhile")) == "meanwhile"
            [report] = bench.collect(1).values()
            assert report.outcome is Outcome.TIMED_OUT
            assert bench.executor._desk.pump._size < 2_000_000  # it holds little
            goes_on.set()
    finally:
        goes_on.set()
        logger.removeHandler(stuck)


@contextlib.contextmanager
def screen_that_is_stuck() -> Iterator[int]:
    """Have nobody read what goes to standard output; return where it could be read."""
    unread, full = os.pipe()
    os.set_blocking(unread, False)
    with open(unread, "rb"), open(full, "w") as stuck, contextlib.redirect_stdout(stuck):
        yield unread


def drain(fd: int) -> None:
    """Let go whoever writes into a pipe, until it has nothing more to write for a while."""
    with contextlib.suppress(BlockingIOError):
        while select.select([fd], [], [], 0.5)[0]:
            os.read(fd, 1 << 20)


def test_whoever_has_no_standard_output_loses_nothing_else() -> None:
    step = Say()
    with contextlib.redirect_stdout(None), Bench(LokyExecutor(1), step) as bench:
        report = bench.run(step, text="unseen")
    assert report.output == "unseen\n"


def test_a_mark_in_pieces_is_still_a_mark() -> None:
    shown: list[tuple[int, bytes]] = []
    output = Output(lambda stream, text: shown.append((stream, text)))
    marks = output.theirs
    mark = output._secret + struct.pack("=Q", 7)
    for text in (b"one", mark[:5], mark[5:20], mark[20:], b"two", output._secret[:3], b"no mark"):
        os.write(marks.fds[0], text)
        output.read(0, output.unread(0))
    marks.close()
    assert output.finish(7, [0], is_long=True) == "one"
    assert output.rest() == f"two{output._secret[:3].decode('utf-8', 'replace')}no mark"
    assert b"".join(text for _, text in shown) == b"onetwo" + output._secret[:3] + b"no mark"
    output.close()


@pytest.mark.parametrize("sizes", [[KEPT, 3], [KEPT - 1, 2, 2], [3 * KEPT], [1] * 5, [KEPT + 5, KEPT - 1, 1]])
def test_exactly_the_end_is_kept_in_whatever_pieces_it_came(sizes: list[int]) -> None:
    output = Output(lambda stream, text: None)
    whole = "".join(chr(97 + number) * size for number, size in enumerate(sizes))
    for number, size in enumerate(sizes):
        text = chr(97 + number).encode() * size
        while text:
            text = text[os.write(output.theirs.fds[0], text[:16384]) :]
            output.read(0, output.unread(0))
    output.theirs.close()
    kept = output.rest().rpartition(" ...]\n")[2]
    output.close()
    assert kept == whole[-KEPT:]


# -- where it is kept -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "process", "store"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
        return
    with LocalBroker(tmp_path / "runs.db" if request.param == "store" else None) as broker:
        yield broker


def test_a_broker_keeps_the_output_of_each_attempt(broker: Broker) -> None:
    workflow = Workflow(outputs=[FailTwice(policies=[RetryPolicy(2)])])
    run = broker.dispatch_workflow(workflow.to_schema())
    assert broker.get_output(run, "FailTwice") == ""
    ProcessEngine(broker, [workflow], processes=1).work()
    assert broker.get_output(run, "FailTwice") == "attempt 3\n"
    assert [broker.get_output(run, "FailTwice", n) for n in (1, 2, 3, 4)] == [
        "attempt 1\n",
        "attempt 2\n",
        "attempt 3\n",
        "",
    ]
    with pytest.raises(UnknownStepError):
        broker.get_output(run, "Other")
    broker.forget(run)
    with pytest.raises(UnknownRunError):
        broker.get_output(run, "FailTwice")


def test_the_error_of_a_run_shows_the_output_of_its_step(broker: Broker) -> None:
    workflow = Workflow(outputs=[PrintAndFail()])
    run = broker.dispatch_workflow(workflow.to_schema())
    ProcessEngine(broker, [workflow], processes=1).work()
    with pytest.raises(RunFailed) as caught:
        broker.result(run)
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert f"of run {run}, attempt 1" in cause.__notes__[0]
    assert "red" in cause.__notes__[0]


def test_a_store_of_the_version_before_gets_its_table(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    LocalBroker(path).close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.executescript("DROP TABLE outputs; ALTER TABLE runs DROP COLUMN start_token; PRAGMA user_version = 1")
    workflow = Workflow(outputs=[Say()])
    with LocalBroker(path) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"text": "kept"})
        ProcessEngine(broker, [workflow], processes=1).work()
        assert broker.get_output(run, "Say") == "kept\n"
    with LocalBroker(path) as broker:
        assert broker.get_output(run, "Say") == "kept\n"


def test_outputs_in_memory_are_those_of_the_newest_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuseline.broker.outputs._MOST", 10)
    outputs = Outputs()
    for number in range(4):
        outputs.add(f"run {number}", "step", 1, "12345")
    assert [outputs.get(f"run {number}", "step", 1) for number in range(4)] == ["", "", "12345", "12345"]
    for number in range(4):
        outputs.forget(f"run {number}")
    assert (outputs._texts, outputs._size) == ({}, 0)


# -- logs -------------------------------------------------------------------------------------------------------------


def test_records_of_steps_meet_the_handlers_of_the_program(caplog: pytest.LogCaptureFixture) -> None:
    step = Log()
    caplog.set_level(logging.INFO, "some.library")
    with Bench(LokyExecutor(1), step) as bench:
        report = bench.run(step)
        bench.run(step)
    first = caplog.records[:3]
    assert [record.getMessage() for record in first] == ["for information", "went wrong with {'a': 1}", "from a thread"]
    assert {record.name for record in first} == {"some.library"}
    assert first[1].user == "me"
    assert first[1].thing.startswith("<object object")
    assert "KeyError: 'inner'" in (first[1].exc_text or "")
    assert first[0].process != os.getpid()
    assert "ERROR some.library: went wrong with {'a': 1}" in report.output


def test_what_the_program_does_not_want_never_leaves_the_child(caplog: pytest.LogCaptureFixture) -> None:
    step = Log()
    caplog.set_level(logging.CRITICAL, "some.library")
    with Bench(LokyExecutor(1), step) as bench:
        assert bench.run(step).output == ""
    assert not caplog.records


def test_a_record_that_a_step_has_made_up_is_told_and_harmless(caplog: pytest.LogCaptureFixture) -> None:
    step = Say()
    with Bench(LokyExecutor(1), step) as bench:
        bench.run(step, text="first")
        [slot] = bench.executor._slots
        for fields in ({}, {"name": 1}, {"name": "x", "levelno": "high"}, {"name": "x", "levelno": 50, "msg": "%d"}):
            slot._listener.log(Logged({**fields, "args": ["no number"]}))
        assert bench.run(step, text="second").output.endswith("second\n")
    assert (
        sum("cannot be handed on" in record.getMessage() for record in caplog.records if record.name == "fuseline") >= 2
    )


def test_a_fork_keeps_the_handler_that_the_step_has_set() -> None:
    step = HandlesSigtermInAFork()
    with Bench(LokyExecutor(1), step) as bench:
        assert result_of(bench.run(step)) == 7


def test_a_fork_that_logs_does_not_disturb_the_reports(capfd: pytest.CaptureFixture[str]) -> None:
    step = LogInAFork()
    with Bench(LokyExecutor(1), step) as bench:
        reports = bench.run_all(step, [{}] * 5)
    assert [result_of(report) for report in reports] == [0] * 5
    assert {report.output for report in reports} == {"from the fork\n"}


def test_a_program_that_reads_late_knows_what_belongs_to_which_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Output.read

    def read_late(output: Output, stream: int, size: int) -> bool:
        time.sleep(0.005)  # the program is busy, while the child goes on with further attempts
        return read(output, stream, size)

    monkeypatch.setattr(Output, "read", read_late)
    step = WriteToTheDescriptor()
    with Bench(LokyExecutor(1), step) as bench:
        reports = bench.run_all(step, [{"text": f"{i}\n"} for i in range(50)])
    assert [report.output for report in reports] == [f"{i}\n" for i in range(50)]


def test_what_is_printed_after_an_attempt_that_prints_nothing_is_not_taken_for_its_own() -> None:
    loud, silent, twice = Say(), SayNothing(), SayTwice()
    with Bench(LokyExecutor(1), loud, silent, twice) as bench:
        bench.run_all(silent, [{}] * 20)  # so that many go to the child together
        for number in range(50):
            last = bench.assign(twice, text=str(number)) if number % 2 else bench.assign(loud, text="last")
            three = [bench.assign(loud, text="first"), bench.assign(silent), last]
            bench.executor.submit(three)
            reports = bench.collect(3)
            said = [sorted(reports[each.token].output.split()) for each in three]
            assert said == [["first"], [], [str(number)] * 2 if number % 2 else ["last"]]


def test_a_signal_handler_that_logs_does_not_block_the_child(caplog: pytest.LogCaptureFixture) -> None:
    step = LogInASignalHandler()
    with Bench(LokyExecutor(1), step) as bench, contextlib.redirect_stderr(io.StringIO()):
        assert bench.run(step).outcome is Outcome.RETURNED
    assert [r.getMessage() for r in caplog.records if r.getMessage() != "tick"] == [f"record {i}" for i in range(2000)]


# -- the pump ---------------------------------------------------------------------------------------------------------


def test_a_pump_gives_up_on_whoever_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuseline.executors.pump._PATIENCE", 0.05)
    with screen_that_is_stuck() as unread:
        pump = Pump()
        for _ in range(10):
            pump.put(0, b"x" * 64 * 1024)
        assert pump.is_full
        pump.close()
        drain(unread)


def test_a_pump_survives_a_reader_that_has_gone() -> None:
    unread, broken = os.pipe()
    os.close(unread)
    with contextlib.suppress(BrokenPipeError), open(broken, "w") as gone:
        with contextlib.redirect_stdout(gone):
            pump = Pump()
            pump.put(0, b"lost")
            pump.flush()
        with contextlib.redirect_stdout(io.StringIO()) as screen:
            pump.put(0, b"seen")
            pump.close()
    assert screen.getvalue() == "seen"
