"""The code blocks of README and docs run as printed, in one program per page, in the order of the page.

``<!-- raises: Name -->`` above a block says that it ends with that exception, ``<!-- file: name.py -->`` that it is a
file of the reader, which the blocks after it may import.
"""

from __future__ import annotations

import builtins
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fuseline import errors

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?:raises: (?P<error>\w+)|file: (?P<file>\w+\.py)) -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S
)


@pytest.fixture
def readers_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


def blocks_of(page: Path) -> list[tuple[int, str | None, str | None, str]]:
    """Return (line, expected error, name of the file, code) of each block."""
    text = page.read_text()
    return [(text[: m.start("code")].count("\n"), m["error"], m["file"], m["code"]) for m in BLOCK.finditer(text)]


@pytest.mark.usefixtures("readers_modules")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs_as_printed(page: Path) -> None:
    from my_workflow import call_llm, search_vector_store  # type: ignore[import-not-found]

    names: dict[str, Any] = {
        "__name__": "__main__",
        "search_vector_store": search_vector_store,
        "call_llm": call_llm,
    }
    for line, error, file, code in blocks_of(page):
        if file is not None:
            Path(file).write_text(code)
            continue
        compiled = compile("\n" * line + code, str(page), "exec")
        if error is None:
            exec(compiled, names)
        else:
            with pytest.raises(getattr(errors, error, None) or getattr(builtins, error)):
                exec(compiled, names)
    for name in ("my_workflow", *(Path(file).stem for _, _, file, _ in blocks_of(page) if file)):
        sys.modules.pop(name, None)


def test_the_pages_have_code() -> None:
    assert {page.name for page in PAGES if blocks_of(page)} >= {"README.md", "policies.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
