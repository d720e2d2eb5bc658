"""``fuseline demo``: measure the standard library with an engine and in a plain loop, and compare.

The pipeline is ``examples/code_metrics.py``, the file that a user would copy. Both ways call the same ``run_step``
methods on the same files; the time of the engine includes dispatching, starting its children and ending them.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
import sysconfig
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import cloudpickle

from fuseline.broker.memory import MemoryBroker
from fuseline.cli.hostile import BadRun, bad_runs, show_bad_runs
from fuseline.context import current_run
from fuseline.engines import ProcessEngine
from fuseline.errors import RunError
from fuseline.executors.base import usable_cpus
from fuseline.policies import WorkflowPolicy
from fuseline.states import State
from fuseline.workflow import Workflow

__all__ = ["run_demo"]

Inputs = dict[str, str]  # of a run: "path" and "module"
Result = dict[str, Any]  # of a run: what the step Summarise returns


def run_demo(
    *, path: Path | None = None, processes: int | None = None, limit: int | None = None, hostile: bool = False
) -> int:
    """Measure, compare, print; return the exit code: 1 if a run did not end as it has to.

    Args:
        path: file or directory; default is the standard library.
        processes: children of the engine; default is the number of usable CPUs.
        limit: most files to measure.
        hostile: add the bad steps.

    Raises:
        KeyboardInterrupt: Ctrl-C. No child is left.
    """
    pipeline = _load_pipeline()
    root = path or Path(sysconfig.get_path("stdlib"))
    files: list[Inputs] = pipeline.find_modules(root)
    if limit is not None and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    if not files:
        print(f"fuseline: there is no Python file below {root}", file=sys.stderr)
        return 2
    processes = processes or usable_cpus()
    bad = bad_runs() if hostile else []
    _show_plan(files, root, processes, bad)
    engine = _Timed("fuseline", files)
    outcome = _run_in_engine(pipeline.make_workflow(), files, processes, bad, engine)
    plain = _Timed("plain loop", files)
    expected = _run_plainly(pipeline.make_workflow(), files, plain)
    ...
    return 0
