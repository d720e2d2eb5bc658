"""The commands that look after runs and their store: cancel, prune, broker, doctor."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fuseline.cli import doctor
from fuseline.testing.gate import HANG

Call = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]


def dispatch(call: Call, count: int = 1) -> list[str]:
    Path("in.jsonl").write_text('{"x": 1}\n' * count)
    ids: list[str] = call("dispatch", "pipeline.py:double", "--inputs", "in.jsonl").out.split()
    return ids


# -- cancel, prune ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("broker")
def test_cancel_ends_a_run_and_says_so(call: Call) -> None:
    [run] = dispatch(call)
    said = call("cancel", run[:10])
    assert (said.code, said.out) == (0, f"run {run} is cancelled.\n")
    said = call("cancel", run)
    assert (said.code, said.out) == (0, f"run {run} is CANCELLED already; there was nothing to cancel.\n")


@pytest.mark.usefixtures("broker")
def test_cancel_may_name_a_step(call: Call) -> None:
    [run] = dispatch(call)
    said = call("cancel", run, "Nix")
    assert said.code == 1
    assert "has no step 'Nix'. Its steps are Double." in said.err
    said = call("cancel", run, "Double")
    assert (said.code, said.out) == (0, f"step 'Double' of run {run} is cancelled.\n")
    assert json.loads(call("show", run, "--json").out)["step_states"]["Double"]["state"] == "CANCELLED"


@pytest.mark.usefixtures("broker")
def test_all_runs_of_a_workflow_are_cancelled_at_once(call: Call) -> None:
    dispatch(call, 3)
    assert call("cancel", "--workflow", "etl").out == "0 runs of 'etl' cancelled; what runs of them is told to end.\n"
    said = call("cancel", "--workflow", "double")
    assert (said.code, said.out) == (0, "3 runs of 'double' cancelled; what runs of them is told to end.\n")
    assert call("runs", "--state", "cancelled", "--json").out.count("\n") == 3


@pytest.mark.parametrize("arguments", [[], ["3f2a", "--workflow", "double"]])
def test_cancel_wants_to_know_what(arguments: list[str], call: Call) -> None:
    said = call("cancel", *arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("fuseline: say what to cancel")


@pytest.mark.usefixtures("broker")
def test_runs_that_wait_go_on_with_a_changed_workflow(call: Call, project: Path) -> None:
    dispatch(call, 2)
    source = (project / "pipeline.py").read_text()
    assert "Double()" in source
    (project / "changed.py").write_text(source.replace("Double()", "Double(policies=[RetryPolicy(1)])"))
    said = call("run", "changed.py:double", "-i", "x=5")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        "fuseline: 2 runs wait in this store for another version of workflow 'double'. Go on with this one by "
        "'fuseline migrate MODULE:WORKFLOW', or end what waits by 'fuseline cancel --workflow double'. Where it is "
        "another project's, use another --store.\n"
    )
    said = call("migrate", "changed.py:double")
    assert (said.code, said.out) == (0, "2 runs of 'double' go on with the workflow as it is now.\n")
    said = call("run", "changed.py:double", "-i", "x=5")
    assert (said.code, said.out) == (0, '{"x": 5, "twice": 10}\n')
    assert "2 earlier runs of 'double' wait in the store and are worked on, too." in said.err
    assert call("runs", "--state", "succeeded", "--json").out.count("\n") == 3


@pytest.mark.usefixtures("broker")
def test_prune_removes_runs_that_have_ended_and_says_how_many(call: Call) -> None:
    dispatch(call, 30)
    call("worker", "pipeline.py:double", "--until-done")
    [waiting] = dispatch(call)
    said = call("prune", "--older-than", "1d")
    assert (said.code, said.out[:15]) == (0, "0 runs removed.")
    assert said.out.endswith(", as before.\n")
    said = call("prune", "--keep", "10")
    assert said.code == 0
    assert said.out.startswith("20 runs removed. The store takes ")
    assert call("runs", "--json", "-n", "100").out.count("\n") == 11
    call("prune", "--older-than", "0s")
    assert json.loads(call("runs", "--json").out)["run"] == waiting


# -- broker -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_broker_serves_until_a_signal(number: signal.Signals, start: Start, call: Call, store: Path) -> None:
    process = start("broker", "--durability", "process", "--keep-runs", "5")
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith(f"broker {process.pid} is ready, with the store {store}.")
    assert call("run", "pipeline.py:double", "-i", "x=1").code == 0
    assert process.poll() is None
    assert f"process {process.pid}" in call("doctor").out
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, err) == (0, "")
    assert "has ended" in out


def test_a_second_broker_of_a_store_is_refused(start: Start, call: Call) -> None:
    process = start("broker")
    assert process.stdout is not None
    process.stdout.readline()
    said = call("broker")
    assert said.code == 1
    assert f"in use by process {process.pid}" in said.err
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG)


def test_it_is_said_that_a_broker_does_not_answer(start: Start, call: Call, store: Path) -> None:
    process = start("broker")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    waits = start("runs")
    assert waits.stderr is not None
    assert waits.stderr.readline() == f"waiting for broker {process.pid} of {store}, which does not answer …\n"
    process.send_signal(signal.SIGCONT)
    assert waits.communicate(timeout=HANG) == ("", "there are no runs.\n")
    assert waits.returncode == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG)


# -- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_with_a_good_store(call: Call, store: Path) -> None:
    said = call("doctor")
    assert said.code == 0
    assert f"{store} will be made by the first run" in said.out
    assert not store.exists()
    call("run", "pipeline.py:double", "-i", "x=1")
    said = call("doctor")
    assert said.code == 0, said.out
    assert "✗" not in said.out
    for text in ("fuseline", "Python", "SQLite", f"{store}; ", "1 SUCCEEDED; ", "the store is whole", "none runs"):
        assert text in said.out
    findings = [json.loads(line) for line in call("doctor", "--json").out.splitlines()]
    assert all(finding["ok"] for finding in findings)


def test_doctor_says_what_is_wrong_with_a_bad_store(call: Call, store: Path) -> None:
    store.write_text("not a store at all")
    said = call("doctor")
    assert said.code == 1
    assert "✗ store" in said.out
    assert "is no store of fuseline" in said.out
    assert store.read_text() == "not a store at all"


def test_doctor_finds_that_a_store_cannot_be_made(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place in ("nowhere/runs.db", "file/runs.db"):
        ran = call("run", "pipeline.py:double", "-i", "x=1", "--store", str(tmp_path / place))
        said = call("doctor", "--store", str(tmp_path / place))
        assert (ran.code, said.code) == (1, 1)
        assert f"✗ store        {tmp_path / place} cannot be made" in said.out
        assert "irectory" in " ".join(said.out.split("cannot be made", 1)[1].split())
    monkeypatch.delenv("FUSELINE_STORE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new" / "state"))
    assert call("doctor").code == 0  # that directory is made with the store
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    said = call("doctor")
    assert said.code == 1
    assert "is no directory that you may write to" in said.out
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("closed"))
    said = call("doctor", "--store", str(tmp_path / "closed" / "runs.db"))
    assert (said.code, "cannot be written" in said.out) == (1, True)


def test_doctor_says_when_too_few_files_may_be_open(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (16, 16))
    said = call("doctor")
    assert said.code == 1
    assert "✗ open files   only 16 per process" in said.out
    assert "ulimit -n" in said.out


def test_doctor_names_what_a_killed_broker_has_left(
    call: Call, start: Start, monkeypatch: pytest.MonkeyPatch, short_folder: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    monkeypatch.setattr(doctor, "_LEFT_AFTER", -1.0)
    process = start("broker")
    assert process.stdout is not None
    process.stdout.readline()
    assert "leftovers    none" in call("doctor").out
    process.kill()
    process.wait()
    [left] = (short_folder / "fuseline").glob("broker-*")
    said = call("doctor")
    assert said.code == 0  # it does no harm
    assert "! leftovers    1 folder of brokers that were killed" in said.out
    assert f"rm -r {left}\n" in said.out
    assert not psutil.pid_exists(process.pid) or os.getpid() != process.pid
