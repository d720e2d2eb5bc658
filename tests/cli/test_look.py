"""The commands that look: runs, show, story."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fuseline import ProcessEngine, Step, Workflow
from fuseline.broker.local import LocalBroker
from fuseline.cli.look import _move_columns, _run_columns, _run_took
from fuseline.cli.tables import table_lines
from fuseline.cli.workflows import find_workflow
from fuseline.policies import RetryPolicy
from fuseline.states import State

Call = Callable[..., Any]


pytestmark = pytest.mark.usefixtures("broker")


@pytest.fixture
def runs(call: Call) -> dict[str, str]:
    """Three runs: ``{title: id}``."""
    ids = {}
    for title in ("good", "bad", "waits"):
        [ids[title]] = call("dispatch", "pipeline.py:etl", "-i", "path=/x/a.csv", "-i", f"title={title}").out.split()
        if title != "waits":
            call("worker", "pipeline.py:etl", "--until-done", "--executor", "inline")
    return ids


def test_runs_are_listed_the_newest_first(call: Call, runs: dict[str, str]) -> None:
    said = call("runs")
    assert said.code == 0
    head, *rows = said.out.splitlines()
    assert head.split() == ["run", "workflow", "state", "steps", "created", "took", "reason"]
    assert [row.split()[0] for row in rows] == [runs["waits"], runs["bad"], runs["good"]]
    assert [row.split()[1:4] for row in rows] == [
        ["etl", "PENDING", "0/2"],
        ["etl", "FAILED", "1/2"],
        ["etl", "SUCCEEDED", "2/2"],
    ]
    assert "Report: ValueError: a bad title [bold]" in rows[1]


def test_why_a_run_failed_stays_on_a_narrow_terminal(runs: dict[str, str], broker: LocalBroker) -> None:
    bad = broker.record(runs["bad"])
    left = msgspec.structs.replace(broker.record(runs["waits"]), state=State.RUNNING)
    head, first, _ = (line.plain for line in table_lines(_run_columns([bad, left], bad.created, set()), 80))
    assert head.split() == ["run", "workflow", "state", "steps", "reason"]
    assert "Report: ValueError: a b" in first


def test_the_story_of_several_days_fits(runs: dict[str, str], broker: LocalBroker) -> None:
    record = broker.record(runs["bad"])
    moves = [msgspec.structs.replace(move, at=move.at + 90_000) for move in broker.story(record.instance_id)]
    lines = [line.plain for line in table_lines(_move_columns(moves, record), 40)]
    assert max(map(len, lines)) <= 40
    assert "Rep…" in lines[-1] or "the…" in lines[-1]


def test_the_time_of_a_run_that_was_left_stands_still(runs: dict[str, str], broker: LocalBroker) -> None:
    record = broker.record(runs["waits"])
    done = msgspec.structs.replace(record.steps["Load"], state=State.SUCCEEDED, started=100.0, finished=103.0)
    steps = {**record.steps, "Load": done}
    record = msgspec.structs.replace(record, state=State.RUNNING, started=100.0, steps=steps)
    assert (_run_took(record, 500.0, set()), _run_took(record, 500.0, {"etl"})) == ("3.0 s", "6 min 40 s")
    steps["Report"] = msgspec.structs.replace(record.steps["Report"], state=State.RUNNING)
    assert _run_took(record, 500.0, set()) == "6 min 40 s"


def test_runs_can_be_chosen(call: Call, runs: dict[str, str]) -> None:
    call("run", "pipeline.py:double", "-i", "x=1")

    def ids(*arguments: str) -> list[str]:
        return [json.loads(line)["run"] for line in call("runs", "--json", *arguments).out.splitlines()]

    assert ids("--state", "failed") == [runs["bad"]]
    assert ids("--workflow", "etl") == [runs["waits"], runs["bad"], runs["good"]]
    assert ids("--workflow", "etl", "-n", "2") == [runs["waits"], runs["bad"]]
    assert ids("--workflow", "etl", "--state", "SUCCEEDED") == [runs["good"]]
    assert len(ids("-n", "1")) == 1
    assert ids("--workflow", "other") == []
    assert "1 of 4 runs; -n shows more" in call("runs", "-n", "1").err
    assert call("runs", "--workflow", "other").err == "there are no such runs.\n"


def test_runs_as_json_have_all_that_the_table_has(call: Call, runs: dict[str, str]) -> None:
    record = json.loads(call("runs", "--state", "failed", "--json").out)
    assert (record["run"], record["workflow"], record["state"]) == (runs["bad"], "etl", "FAILED")
    assert (record["steps_done"], record["steps"]) == (1, 2)
    assert record["created"] <= record["started"] <= record["finished"]
    assert record["error"]["type"] == "ValueError"


def test_show_has_inputs_steps_and_the_error(call: Call, runs: dict[str, str], project: Path) -> None:
    said = call("show", runs["bad"])
    assert said.code == 0
    assert said.out.startswith(f"run {runs['bad']} of workflow etl\n")
    for text in ("state    FAILED", "path = PosixPath('/x/a.csv')", "title = 'bad'", "a bad title [bold]"):
        assert text in said.out
    rows = [line.split() for line in said.out.splitlines()]
    assert ["Load", "SUCCEEDED", "1"] in [row[:3] for row in rows]
    assert ["Report", "FAILED", "1"] in [row[:3] for row in rows]
    assert 'File "pipeline.py", line 17' in said.out


def test_show_of_a_step_has_the_whole_traceback(call: Call, runs: dict[str, str]) -> None:
    said = call("show", runs["bad"], "Report")
    assert said.out.startswith(f"step Report of run {runs['bad']}\n  state    FAILED\n  attempts ")
    assert "\nTraceback (most recent call last):\n" in said.out
    assert said.out.rstrip().split("\n")[-1].startswith("ValueError: ")
    shown = json.loads(call("show", runs["bad"], "Report", "--json").out)
    assert shown["state"] == "FAILED"
    assert shown["traceback"].startswith("Traceback")
    said = call("show", runs["good"], "Report")
    assert said.out.startswith(f"step Report of run {runs['good']}\n  state    SUCCEEDED\n  attempts 1\n  took ")
    assert call("show", runs["bad"], "Nix").code == 1


def test_show_has_the_result_of_a_run_that_succeeded(call: Call, runs: dict[str, str]) -> None:
    assert "result   'good: 3 rows'\n" in call("show", runs["good"]).out
    shown = json.loads(call("show", runs["good"], "--json").out)
    assert (shown["inputs"], shown["result"]) == ({"path": "/x/a.csv", "title": "good"}, "good: 3 rows")
    assert shown["step_states"]["Load"]["attempts"] == 1


def test_a_run_may_be_named_by_the_beginning_of_its_id(call: Call, runs: dict[str, str]) -> None:
    others = [run for run in runs.values() if run != runs["good"]]
    lengths = [n for n in range(1, 17) if not any(run.startswith(runs["good"][:n]) for run in others)]
    said = call("show", runs["good"][: lengths[0]])
    assert said.code == 0
    assert said.out.startswith(f"run {runs['good']} of workflow etl\n")


@pytest.mark.parametrize("name", ["show", "story", "cancel", "resume"])
def test_a_run_that_is_not_there_is_an_error(name: str, call: Call, runs: dict[str, str]) -> None:
    said = call(name, "nobody")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        "fuseline: no run has an id that begins with 'nobody'. 'fuseline runs' lists those that are there.\n"
    )


def test_a_beginning_of_several_ids_lists_five_of_them(call: Call) -> None:
    Path("in.jsonl").write_text('{"x": 1}\n' * 40)
    ids = call("dispatch", "pipeline.py:double", "--inputs", "in.jsonl").out.split()
    first = max("0123456789abcdef", key=lambda digit: sum(each.startswith(digit) for each in ids))
    meant = [each for each in ids if each.startswith(first)]
    said = call("show", first)
    assert said.code == 1
    assert f"several runs have ids that begin with {first!r}: " in said.err
    assert sum(each in said.err for each in meant) == min(5, len(meant))


def test_a_story_has_every_move_with_attempt_and_cause(call: Call, runs: dict[str, str]) -> None:
    said = call("story", runs["bad"])
    rows = [line.split() for line in said.out.splitlines()[3:]]
    assert rows[0][:5] == ["time", "what", "state", "attempt", "cause"]
    moves = [(" ".join(row[1:-1]) if len(row) == 3 else row[1], row[2]) for row in rows[1:]]
    assert ("Report", "FAILED") in moves
    assert "ValueError: a bad title [bold]" in said.out
    only = call("story", runs["bad"], "Load").out
    assert "Report" not in only
    assert "SUCCEEDED" in only
    data = [json.loads(line) for line in call("story", runs["bad"], "Report", "--json").out.splitlines()]
    assert [move["state"] for move in data][-2:] == ["RUNNING", "FAILED"]
    assert data[-1]["attempt"] == 1


def test_a_story_of_an_unknown_step_names_the_steps(call: Call, runs: dict[str, str]) -> None:
    said = call("story", runs["bad"], "Nix")
    assert said.code == 1
    assert "has no step 'Nix'. Its steps are Load, Report." in said.err


class Again(Step):
    def run_step(self, what: Any) -> Any:
        raise ConnectionError("\x1b[31mnot\nnow\x9b")


def test_what_users_write_cannot_change_the_terminal(call: Call, broker: LocalBroker) -> None:
    workflow = Workflow(outputs=[Again(name="[red]step[/red]", policies=[RetryPolicy(1)])], name="[bold]flow")
    run = broker.dispatch_workflow(workflow.to_schema(), {"what": "\x1b[2J"})
    ProcessEngine(broker, [workflow], executor="inline").work()
    for arguments in (["runs"], ["show", run], ["story", run]):
        said = call(*arguments)
        assert said.code == 0
        assert "\x1b" not in said.out
        assert "\x9b" not in said.out
        assert "[bold]flow" in said.out or "[red]step[/red]" in said.out
    assert "\\x1b[31mnot" in call("show", run).out


def test_values_whose_classes_are_not_here_are_named(call: Call, broker: LocalBroker) -> None:
    Path("classes.py").write_text(
        "from fuseline import Step, Workflow\n"
        "class Thing: pass\n"
        "class Take(Step):\n    def run_step(self, what): return what\n"
        "take = Workflow(outputs=[Take()], name='take', executor='inline')\n"
    )
    workflow = find_workflow("classes.py")
    run = broker.dispatch_workflow(workflow.to_schema(), {"what": sys.modules["classes"].Thing()})
    ProcessEngine(broker, [workflow]).work()
    del sys.modules["classes"]
    Path("classes.py").unlink()
    said = call("show", run)
    assert said.code == 0
    assert "what = (cannot be loaded here: ModuleNotFoundError: No module named 'classes')" in said.out
    assert "result   (cannot be loaded here: ModuleNotFoundError" in said.out
    assert json.loads(call("show", run, "--json").out)["state"] == "SUCCEEDED"


def test_a_run_that_had_its_time_is_shown_with_the_reason(
    call: Call, runs: dict[str, str], broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_store = broker.record(runs["waits"])
    steps = {name: msgspec.structs.replace(step, state=State.CANCELLED) for name, step in of_store.steps.items()}
    record = msgspec.structs.replace(of_store, state=State.FAILED, steps=steps, timed_out=90.0)
    monkeypatch.setattr(LocalBroker, "record", lambda self, run: record)
    monkeypatch.setattr(LocalBroker, "records", lambda self, **which: [record])
    reason = "the run took longer than its WorkflowTimeoutPolicy(90) allows"
    assert f"  reason   {reason}\n" in call("show", runs["waits"]).out
    shown = json.loads(call("show", runs["waits"], "--json").out)
    assert shown["error"] == {
        "step": None,
        "attempts": None,
        "type": "fuseline.errors.RunTimedOut",
        "message": reason,
    }
    assert "the run took longer" in call("runs").out
