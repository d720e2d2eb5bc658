"""The example of a backend, and its tests, run outside of this repository as the page prints them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fuseline

from .test_pages import ROOT, blocks_of


def test_the_backend_of_the_page_passes_the_suite_with_nothing_but_fuseline_and_pytest(tmp_path: Path) -> None:
    packages, mine = tmp_path / "packages", tmp_path / "mine"
    shutil.copytree(Path(fuseline.__file__).parent, packages / "fuseline")
    mine.mkdir()
    for _, _, file, code in blocks_of(ROOT / "docs" / "backends.md"):
        if file is not None:
            (mine / file).write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-c", os.devnull, "."]
    done = subprocess.run(command, cwd=mine, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 100
    reasons = set(re.findall(r"not asked: (.*)", done.stdout))
    assert reasons == {
        "this executor does not kill",
        "this executor does not isolate crashes",
        "this executor does not limit memory",
        "this executor does not run steps in the caller",
        "this executor takes no assignments that follow others",
    }
