"""The commands that get runs done, in the process of the test and in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuseline.broker.local import LocalBroker
from fuseline.states import State
from fuseline.testing import Gate
from fuseline.testing.gate import HANG

Call = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.usefixtures("broker")


def lines_of(name: str, *objects: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(each) + "\n" for each in objects))
    return name


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=HANG)
    return process.returncode, out, err


# -- run --------------------------------------------------------------------------------------------------------------


def test_run_prints_the_result_and_one_line_about_it(call: Call) -> None:
    said = call("run", "pipeline.py:etl", "-i", "path=/data/a.csv", "-i", "title=hello", "--executor", "inline")
    assert (said.code, said.out) == (0, "hello: 3 rows\n")
    assert said.err.startswith("etl: SUCCEEDED, 2 of 2 steps, ")
    assert said.err.count("\n") == 1


def test_run_takes_its_steps_to_children_that_import_the_file(start: Start) -> None:
    code, out, err = end(start("run", "pipeline.py:etl", "-i", "path=/data/a.csv", "-p", "1"))
    assert (code, out) == (0, "report: 3 rows\n"), err


def test_a_result_that_is_no_string_is_json(call: Call) -> None:
    assert call("run", "pipeline:double", "-i", "x=[1]").out == '{"x": [1], "twice": [1, 1]}\n'


def test_a_run_that_fails_is_explained_with_ways_on(call: Call, project: Path, store: Path) -> None:
    said = call("run", "pipeline.py:etl", "-i", "path=a", "-i", "title=bad", "--executor", "inline")
    assert (said.code, said.out) == (1, "")
    assert "step 'Report': ValueError: a bad title [bold]" in said.err
    assert 'File "pipeline.py", line 17, in run_step' in said.err
    assert 'raise ValueError("a bad title [bold]")' in said.err
    assert "fuseline/attempt.py" not in said.err
    assert "etl: FAILED, 1 of 2 steps, " in said.err
    with LocalBroker(store) as broker:
        [record] = broker.records()
    assert f"fuseline story {record.instance_id}\n" in said.err
    assert f"fuseline resume {record.instance_id} pipeline.py:etl\n" in said.err


def test_ways_on_name_a_store_that_is_not_the_usual_one(call: Call) -> None:
    said = call(
        "run", "pipeline.py:etl", "-i", "path=a", "-i", "title=bad", "--executor", "inline", "--store", "o k.db"
    )
    assert said.err.count(" --store 'o k.db'\n") == 3


def test_ways_on_can_be_copied(call: Call) -> None:
    Path("my bad.py").write_text(Path("pipeline.py").read_text())
    said = call("run", "my bad.py:etl", "-i", "path=a", "-i", "title=bad", "--executor", "inline")
    assert said.err.endswith(" 'my bad.py:etl'\n")


def test_many_runs_give_a_line_each_in_their_order(call: Call) -> None:
    file = lines_of("in.jsonl", *({"x": number} for number in range(40)))
    said = call("run", "pipeline.py:double", "--inputs", file)
    assert said.code == 0
    assert [json.loads(line)["x"] for line in said.out.splitlines()] == list(range(40))
    assert said.err.startswith("double: 40 runs, 40 succeeded, ")


def test_of_many_runs_one_that_fails_has_an_empty_line(call: Call) -> None:
    titles = ["a", "bad", "b", "bad", "bad", "bad"]
    file = lines_of("in.jsonl", *({"title": title} for title in titles))
    said = call("run", "pipeline.py:etl", "--inputs", file, "-i", "path=x", "--executor", "inline")
    assert said.code == 1
    assert said.out == "a: 3 rows\n\nb: 3 rows\n\n\n\n"
    assert "etl: 6 runs, 2 succeeded, 4 failed, " in said.err
    assert "of workflow 'etl', line 2 of in.jsonl, failed:\n" in said.err
    assert "of workflow 'etl', line 4 of in.jsonl, failed:\n" in said.err
    assert said.err.count("step 'Report': ValueError") == 3  # they are often the same
    assert "Only the first 3 failures are shown" in said.err
    assert "fuseline runs --state failed\n" in said.err


def test_a_file_without_inputs_runs_nothing(call: Call) -> None:
    said = call("run", "pipeline.py:double", "--inputs", lines_of("in.jsonl"), "--store", "new.db")
    assert (said.code, said.out) == (0, "")
    assert said.err == "there are no inputs in in.jsonl, so there was nothing to run.\n"
    assert not Path("new.db").exists()


def test_json_has_the_run_its_state_and_its_result_or_error(call: Call) -> None:
    file = lines_of("in.jsonl", {"title": "a"}, {"title": "bad"})
    said = call("run", "pipeline.py:etl", "--inputs", file, "-i", "path=x", "--executor", "inline", "--json")
    good, bad = map(json.loads, said.out.splitlines())
    assert (good["workflow"], good["state"], good["result"]) == ("etl", "SUCCEEDED", "a: 3 rows")
    assert (bad["state"], "result" in bad) == ("FAILED", False)
    assert bad["error"] == {"step": "Report", "attempts": 1, "type": "ValueError", "message": "a bad title [bold]"}


def test_a_result_that_json_cannot_hold_is_there_as_its_repr(call: Call) -> None:
    said = call("run", "pipeline.py:double", "-i", "x=1", "--json")
    assert json.loads(said.out)["result"] == {"x": 1, "twice": 2}
    Path("odd.py").write_text(
        "from fuseline import Step, Workflow\n"
        "class Odd(Step):\n    def run_step(self): return 1j\n"
        "odd = Workflow(outputs=[Odd()], executor='inline')\n"
    )
    assert call("run", "odd.py").out == "1j\n"
    assert json.loads(call("run", "odd.py", "--json").out)["repr"] == "1j"


LOUD = """
import os, subprocess
from fuseline import Step, Workflow
print("imported")
class Loud(Step):
    def run_step(self):
        print("in the step", flush=True)
        os.write(1, b"to the descriptor\\n")
        subprocess.run(["echo", "from a program"], check=True)
        return float("nan")
loud = Workflow(outputs=[Loud()], name="loud")
"""


@pytest.mark.parametrize("executor", ["loky", "inline"])
def test_what_steps_and_modules_print_does_not_get_between_json(executor: str, start: Start) -> None:
    Path("loud.py").write_text(LOUD)
    code, out, err = end(start("run", "loud.py", "--json", "--executor", executor, "-p", "1"))
    assert code == 0
    found = json.loads(out)  # a single object
    assert ("result" in found, found["repr"]) == (False, "nan")
    for text in ("imported\n", "in the step\n", "to the descriptor\n", "from a program\n"):
        assert text in err
    code, out, err = end(start("dispatch", "loud.py", "--json"))
    assert json.loads(out)["workflow"] == "loud"
    code, out, err = end(start("run", "loud.py", "--executor", executor, "-p", "1"))
    assert "in the step\n" in out
    assert "nan\n" in out


def test_run_says_that_others_wait_for_the_same_workflow(call: Call) -> None:
    assert "earlier" not in call("run", "pipeline.py:double", "-i", "x=1").err
    call("dispatch", "pipeline.py:etl", "-i", "path=p")
    call("dispatch", "pipeline.py:double", "-i", "x=2")
    waits, _ = call("run", "pipeline.py:double", "-i", "x=3").err.splitlines()
    assert waits == "1 earlier run of 'double' waits in the store and is worked on, too."
    call("cancel", json.loads(call("runs", "--workflow", "etl", "--json").out)["run"])
    file = lines_of("in.jsonl", *({"x": number} for number in range(101)))
    call("dispatch", "pipeline.py:double", "--inputs", file)
    assert "more than 100 earlier runs of 'double' wait in the" in call("run", "pipeline.py:double", "-i", "x=3").err


def test_run_ends_with_its_own_runs_and_leaves_those_of_others(call: Call, start: Start, gate: Gate) -> None:
    [theirs] = call("dispatch", "pipeline.py:hold", "-i", f"folder={gate.folder}").out.split()
    other = start("worker", "pipeline.py:hold", "-p", "1")
    gate.wait_entered()
    with Gate() as second:
        ours = start("run", "pipeline.py:hold", "-i", f"folder={second.folder}", "-p", "1")
        second.wait_entered()
        second.open()
        code, out, err = end(ours)  # the other run still holds
    assert (code, out) == (0, "held\n"), err
    gate.open()
    while call("runs", "--state", "succeeded", "--json").out.count("\n") < 2:
        pass
    other.send_signal(signal.SIGTERM)
    assert end(other)[0] == 143
    assert theirs in call("runs").out


# -- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_what_runs_finish_and_says_how_to_go_on(
    number: signal.Signals, code: int, start: Start, gate: Gate, call: Call
) -> None:
    file = lines_of("in.jsonl", {"folder": gate.folder}, {"folder": gate.folder})
    process = start("run", "pipeline.py:hold", "--inputs", file, "-p", "1")
    gate.wait_entered()
    process.send_signal(number)
    assert process.stderr is not None
    assert "stopping when" in process.stderr.readline()
    gate.open()
    ended, out, err = end(process)
    assert (ended, out) == (code, "held\n\n")
    assert "hold: 2 runs, 1 succeeded, 1 not ended, " in err
    assert "Go on with: fuseline worker pipeline.py:hold --until-done\n" in err
    worker = start("worker", "pipeline.py:hold", "--until-done", "-p", "1", "-v")
    gate.wait_entered()
    gate.open()
    ended, _, err = end(worker)
    assert ended == 0
    assert "has stopped: 1 run ended here (1 succeeded)." in err
    assert call("runs", "--json").out.count('"SUCCEEDED"') == 2


def test_a_worker_that_is_stopped_says_how_to_go_on(start: Start, gate: Gate, call: Call) -> None:
    call("dispatch", "pipeline.py:hold", "-i", f"folder={gate.folder}")
    process = start("worker", "pipeline.py:hold", "-p", "1")
    gate.wait_entered()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "serves hold" in process.stderr.readline()
    assert "stopping when" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    assert (code, "0 runs ended here." in err) == (130, True)
    assert err.endswith("What has not ended stays in the store. Go on with: fuseline worker pipeline.py:hold\n")


def test_a_run_that_was_killed_can_be_resumed(start: Start, gate: Gate, call: Call) -> None:
    process = start("run", "pipeline.py:hold", "-i", f"folder={gate.folder}", "-p", "1")
    gate.wait_entered()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "stopping when" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert (code, out) == (130, "")
    assert "hold: interrupted, 0 of 1 step, " in err
    for arguments in (["runs"], ["show", json.loads(call("runs", "--json").out)["run"]]):
        said = call(*arguments).out
        assert "RUNNING (no worker)" in said
    command = err.split("Go on with: fuseline ")[1].split()
    assert command[0] == "resume"
    again = start(*command, "-p", "1")
    gate.wait_entered()
    gate.open()
    code, out, err = end(again)
    assert (code, out) == (0, "held\n")
    assert "hold: SUCCEEDED, 1 of 1 step, " in err


# -- dispatch, worker, resume -----------------------------------------------------------------------------------------


def test_dispatch_prints_ids_and_a_worker_does_the_work(call: Call) -> None:
    file = lines_of("in.jsonl", {"x": 1}, {"x": 2})
    ids = call("dispatch", "pipeline.py:double", "--inputs", file).out.split()
    [more] = call("dispatch", "pipeline.py:etl", "-i", "path=p", "-i", "title=bad").out.split()
    said = call("dispatch", "pipeline.py:double", "-i", "x=3", "--json")
    assert json.loads(said.out)["workflow"] == "double"
    assert [json.loads(line)["state"] for line in call("runs", "--json").out.splitlines()] == ["PENDING"] * 4
    said = call("worker", "pipeline.py:double", "pipeline.py:etl", "--until-done", "--executor", "inline", "-p", "2")
    assert said.code == 1  # one has failed
    assert said.out == ""
    first, failed, last = said.err.splitlines()
    assert "serves double, etl, 2 steps at a time, until no run is left" in first
    assert failed.endswith(f"run {more} of etl: FAILED")
    assert "4 runs ended here (3 succeeded, 1 failed)" in last
    assert json.loads(call("show", ids[1], "--json").out)["state"] == "SUCCEEDED"


def test_a_worker_without_a_name_serves_all_workflows_of_a_file(call: Call) -> None:
    call("dispatch", "pipeline.py:double", "-i", "x=1")
    call("dispatch", "pipeline.py:etl", "-i", "path=p")
    said = call("worker", "pipeline.py", "--until-done", "--executor", "inline")
    assert said.code == 0
    assert "serves etl, double, hold, " in said.err
    assert "2 runs ended here (2 succeeded)" in said.err


def test_a_worker_that_is_refused_does_not_say_that_it_serves(call: Call, project: Path) -> None:
    call("dispatch", "pipeline.py:etl", "-i", "path=p")
    source = (project / "pipeline.py").read_text()
    (project / "changed.py").write_text(source.replace("Report()\n", "Report(policies=[RetryPolicy(1)])\n", 1))
    said = call("worker", "changed.py:etl", "--until-done", "--executor", "inline")
    assert (said.code, said.err.count("\n")) == (1, 1), said.err
    assert "serves" not in said.err
    assert "waits in this store for another version of workflow 'etl'" in said.err
    assert "fuseline cancel" in said.err


def test_dispatch_may_wait_for_results(start: Start, call: Call) -> None:
    process = start("dispatch", "pipeline.py:double", "-i", "x=4", "--wait")
    assert process.stderr is not None
    assert (
        "no worker serves 'double' now. Start one with: fuseline worker pipeline.py:double" in process.stderr.readline()
    )
    assert call("worker", "pipeline.py:double", "--until-done").code == 0
    code, out, _ = end(process)
    assert (code, out) == (0, '{"x": 4, "twice": 8}\n')


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_waiting_ends_with_a_signal_and_the_run_goes_on(
    number: signal.Signals, code: int, start: Start, call: Call
) -> None:
    process = start("dispatch", "pipeline.py:double", "-i", "x=4", "--wait")
    assert process.stderr is not None
    assert "no worker serves" in process.stderr.readline()
    process.send_signal(number)
    ended, out, err = end(process)
    assert (ended, out) == (code, "")
    assert err == "no longer waiting; the run goes on with the workers. Look with: fuseline runs\n"
    assert json.loads(call("runs", "--json").out)["state"] == "PENDING"


def kill_broker(store: Path) -> None:
    with LocalBroker(store) as broker:
        os.kill(broker.pid, signal.SIGKILL)


def test_waiting_survives_brokers_that_are_killed(start: Start, store: Path, call: Call) -> None:
    process = start("dispatch", "pipeline.py:double", "-i", "x=4", "--wait")
    assert process.stderr is not None
    assert "no worker serves" in process.stderr.readline()
    process.send_signal(signal.SIGSTOP)  # so that it cannot hear of the end from any broker
    kill_broker(store)
    assert call("worker", "pipeline.py:double", "--until-done").code == 0
    kill_broker(store)
    process.send_signal(signal.SIGCONT)
    code, out, err = end(process)
    assert (code, out) == (0, '{"x": 4, "twice": 8}\n'), err


def test_whoever_waits_is_told_that_the_last_worker_has_gone(start: Start, gate: Gate, call: Call) -> None:
    worker = start("worker", "pipeline.py:hold", "-p", "1")
    assert worker.stderr is not None
    assert "serves hold" in worker.stderr.readline()
    with LocalBroker(os.environ["FUSELINE_STORE"]) as broker:
        while not broker.status().workers:
            pass
    process = start("dispatch", "pipeline.py:hold", "-i", f"folder={gate.folder}", "--wait")
    assert process.stderr is not None
    assert "1 worker serves 'hold'" in process.stderr.readline()
    gate.wait_entered()
    worker.send_signal(signal.SIGKILL)
    assert "no worker is left that serves 'hold'" in process.stderr.readline()
    call("cancel", json.loads(call("runs", "--json").out)["run"])
    assert end(process)[0] == 1


def test_a_worker_goes_on_until_it_is_stopped(start: Start, call: Call) -> None:
    process = start("worker", "pipeline.py:double")
    assert process.stderr is not None
    assert "until Ctrl-C" in process.stderr.readline()
    assert call("dispatch", "pipeline.py:double", "-i", "x=5", "--wait").out == '{"x": 5, "twice": 10}\n'
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert (code, out) == (130, "")
    assert err.endswith("has stopped: 1 run ended here (1 succeeded).\n")


def test_resume_works_on_a_run_that_failed(call: Call, project: Path, store: Path) -> None:
    call("run", "pipeline.py:etl", "-i", "path=a", "-i", "title=bad", "--executor", "inline")
    with LocalBroker(store) as broker:
        [record] = broker.records()
    said = call("resume", record.instance_id[:6], "pipeline.py:etl", "--executor", "inline")
    assert said.code == 1
    assert "step 'Report' (attempt 2): ValueError" in said.err
    with LocalBroker(store) as broker:
        assert broker.record(record.instance_id).steps["Load"].attempts == 1  # it had succeeded


def test_resume_without_a_workflow_leaves_the_run_to_a_worker(call: Call, store: Path) -> None:
    [run] = call("dispatch", "pipeline.py:double", "-i", "x=1").out.split()
    assert call("cancel", run).code == 0
    said = call("resume", run[:8])
    assert said.code == 0
    assert said.out == f"run {run} of workflow 'double' waits for a worker again.\n"
    assert "no worker serves 'double' now. Start one with: fuseline worker MODULE:WORKFLOW" in said.err
    with LocalBroker(store) as broker:
        assert broker.record(run).state is State.PENDING


def test_resume_of_a_run_that_has_not_ended_only_says_so(call: Call) -> None:
    [run] = call("dispatch", "pipeline.py:double", "-i", "x=1").out.split()
    assert call("resume", run).out == f"run {run} of workflow 'double' is PENDING and needs no resuming.\n"
    assert call("resume", run, "pipeline.py:double").out == '{"x": 1, "twice": 2}\n'


def test_a_changed_workflow_is_resumed_only_if_that_is_said(call: Call, project: Path) -> None:
    call("run", "pipeline.py:etl", "-i", "path=a", "-i", "title=bad", "--executor", "inline")
    run = json.loads(call("runs", "--json").out)["run"]
    source = (project / "pipeline.py").read_text()
    changed = source.replace(
        "load, report = Load(), Report()", "load, report = Load(), Report(policies=[RetryPolicy(1)])"
    )
    (project / "changed.py").write_text(changed.replace('"bad"', '"very bad"'))
    said = call("resume", run, "changed.py:etl", "--executor", "inline")
    assert (said.code, said.out) == (1, "")
    assert f"workflow 'etl' is not what it was when run {run} began. Go on with the changed one with --" in said.err
    said = call("resume", run, "changed.py:etl", "--executor", "inline", "--changed")
    assert (said.code, said.out) == (0, "bad: 3 rows\n")


def test_changed_needs_the_workflow(call: Call) -> None:
    [run] = call("dispatch", "pipeline.py:double", "-i", "x=1").out.split()
    said = call("resume", run, "--changed")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("fuseline: --changed needs the workflow")


@pytest.mark.parametrize("options", [[], ["--changed"]])
def test_a_run_is_not_resumed_as_one_of_another_workflow(options: list[str], call: Call) -> None:
    call("run", "pipeline.py:etl", "-i", "path=a", "-i", "title=bad", "--executor", "inline")
    run = json.loads(call("runs", "--json").out)["run"]
    said = call("resume", run, "pipeline.py:double", *options)
    assert (said.code, said.out) == (2, "")
    assert f"run {run} is one of workflow 'etl', and pipeline.py:double is 'double'. Name the" in said.err
    assert json.loads(call("runs", "--json").out)["state"] == "FAILED"


def test_a_run_that_has_succeeded_is_not_resumed(call: Call) -> None:
    call("run", "pipeline.py:double", "-i", "x=1")
    run = json.loads(call("runs", "--json").out)["run"]
    for arguments in (["resume", run], ["resume", run, "pipeline.py:double"]):
        said = call(*arguments)
        assert (said.code, said.out) == (1, "")
        assert said.err.startswith("fuseline: ")
        assert said.err.count("\n") == 1
