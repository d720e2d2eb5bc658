"""The same seed stands for the same work and the same faults, in every process; and what it stands for is varied."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from .keeper import ROOT
from .plan import Act, Signal, Target, make_plots, make_workflows, workflow_of

_TELL = """
from tests.chaos.plan import make_plots, make_workflows
print(make_workflows(5), make_plots(5, 60.0))
"""


def test_a_seed_stands_for_the_same_in_every_process() -> None:
    told = subprocess.run([sys.executable, "-c", _TELL], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"{make_workflows(5)} {make_plots(5, 60.0)}"


def test_another_seed_stands_for_something_else() -> None:
    assert make_workflows(5) != make_workflows(6)
    assert make_plots(5, 60.0) != make_plots(6, 60.0)


def test_a_longer_time_begins_with_the_faults_of_a_shorter_one() -> None:
    short = make_plots(5, 60.0)
    assert make_plots(5, 300.0)[: len(short)] == short


def test_faults_are_of_every_kind_and_only_files_of_brokers_and_children_are_full() -> None:
    counts = Counter((plot.signal, plot.target) for plot in make_plots(5, 3600.0))
    full = {(Signal.FULL, Target.BROKER), (Signal.FULL, Target.CHILD)}
    others = {(signal, target) for signal in Signal for target in Target if signal is not Signal.FULL}
    assert set(counts) == full | others


def test_steps_do_every_act_and_hang_only_where_a_timeout_ends_it() -> None:
    plans = make_workflows(5)
    acts = Counter()
    for number in range(500):
        for step in workflow_of(5, number, plans).steps:
            script = [step.act(5, number, attempt) for attempt in range(1, step.retries + 4)]
            assert script[-1] is Act.RETURN
            assert step.timeout is not None or Act.HANG not in script
            acts.update(script)
    assert set(acts) == set(Act)
