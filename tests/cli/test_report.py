"""What the demo prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuseline.cli.report import Way, show_good_runs, show_plan


def test_a_single_file_is_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(Path("x.py"), [2_000_000], 1, 1)
    assert show_good_runs(Way(), 1)
    said = capsys.readouterr().out
    assert "  1 file, 2.0 MB: 5 steps, and 1 bad step among them\n" in said
    assert "The good run succeeded." in said
