"""The benchmark of speed: it measures what it says, in each library that is here, and its tables tell that."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.speed import guard, hosts, page
from benchmarks.speed.__main__ import main
from benchmarks.speed.drivers import Run
from benchmarks.speed.hosts import measure, measure_all
from benchmarks.speed.libraries import LIBRARIES
from benchmarks.speed.measures import MEASURES
from benchmarks.speed.results import Results
from benchmarks.speed.tables import as_markdown, as_tables, shown
from benchmarks.speed.targets import TARGETS
from benchmarks.speed.works import WORKS, Task, Work

#: Seconds for one program; a net, not what is measured.
BOUND = 60.0
#: Small enough for a test.
SIZES = {"array": 1 << 16, "spins": 2, "layers": 300, "runs": 50}


@pytest.mark.parametrize("kind", WORKS)
def test_each_kind_can_be_measured(kind: str) -> None:
    library = next(LIBRARIES[name] for name in ("fuseline", "fuseline_durable") if LIBRARIES[name].does(WORKS[kind]))
    measured = measure(library, WORKS[kind], SIZES.get(kind, 20), BOUND)
    assert isinstance(measured, float), measured
    assert measured > -1.0


@pytest.mark.parametrize("name", [name for name, library in LIBRARIES.items() if library.version() is not None])
def test_each_library_that_is_here_does_what_it_says_to_do(name: str) -> None:
    library = LIBRARIES[name]
    kind = next(kind for kind in ("layers", "flat", "durable") if library.does(WORKS[kind]))
    measured = measure(library, WORKS[kind], 250, BOUND)
    assert isinstance(measured, float), measured


def test_what_does_not_come_out_right_is_no_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.speed import measures

    work = Work(name="w", tasks=[Task(len, ("abc",))], outputs=[0], expected=[4])
    with pytest.raises(AssertionError, match=r"w: \[3\] came out, not \[4\]"):
        measures._check(work, [3])


def test_a_program_that_fails_or_hangs_is_a_problem_and_not_a_number() -> None:
    assert "KeyError" in str(measure(LIBRARIES["stdlib"], WORKS["timeout"], 1, BOUND))
    assert measure(LIBRARIES["stdlib"], WORKS["spins"], 1000, 0.5) == "not done after 0.5 s"


@pytest.mark.parametrize("name", ["flat", "layers", "chain", "runs"])
def test_works_are_what_they_say(name: str) -> None:
    work = WORKS[name].make(300).expanded()
    assert len(work.tasks) == 300
    assert len(work.outputs) == len(work.expected)
    results: list[object] = []
    for task in work.tasks:
        assert all(need < len(results) for need in task.needs)
        results.append(task.function(*task.arguments, *(results[need] for need in task.needs)))
    assert [results[place] for place in work.outputs] == list(work.expected)


def some_results() -> Results:
    results = Results()
    for library, numbers in {"fuseline": [0.1, 0.3, 0.2], "pebble": [0.5, 0.4, 0.6], "ray": [4.0]}.items():
        for number in numbers:
            results.add(library, "flat", 5000, number)
    results.add("fuseline_durable", "durable", 1000, 0.05)
    results.add("dask", "flat", 5000, "exit code 1: no room")
    results.add("fuseline", "spins", 64, 1.6)
    return results


def test_medians_spread_and_ratios() -> None:
    results = some_results()
    assert results.median("flat", "pebble") == 0.5
    assert results.spread("flat", "fuseline") == (0.1, 0.3)
    assert results.best_peer("flat") == ("pebble", 0.5)
    assert results.ratio("flat") == pytest.approx(0.4)
    assert results.ratio("durable") is None
    assert results.ours("durable") == 0.05
    assert results.problem("dask", "flat") == "exit code 1: no room"


def test_results_survive_json() -> None:
    results = some_results()
    data = json.loads(json.dumps(results.as_plain_data()))
    assert Results.from_plain_data(data).as_plain_data() == results.as_plain_data()


def test_tables() -> None:
    results = some_results()
    libraries, kinds = list(LIBRARIES.values()), list(WORKS.values())
    text = as_markdown(results, libraries, kinds, "work")
    [line] = [line for line in text.splitlines() if line.startswith("| `flat`")]
    assert "| 40 (20 to 60) |" in line
    assert "**100 (80 to 120)**" in line
    assert "fails" not in text.splitlines()[0]
    assert line.endswith("| 0.40 x |")
    assert shown(results, WORKS["spins"], "fuseline") == "100.0%"
    assert [str(table.title) for table in as_tables(results, libraries, kinds)] == [
        "Median time, two worker processes, warm pools"
    ]


def test_targets_know_whether_they_are_met() -> None:
    results = some_results()
    values = {target.title: (target, target.value(results)) for target in TARGETS}
    flat, value = values["`flat`: at most 1/5 of pebble"]
    assert value == pytest.approx(0.4)
    assert not flat.is_met(value)
    durable, value = values["`durable`: at most what pebble takes for `flat`, which is not durable"]
    assert value == pytest.approx(0.5)  # for each step
    assert durable.is_met(value)
    spins, value = values["`spins`: at least 97 % of the ideal"]
    assert value is not None
    assert spins.is_met(value)
    assert values["`array`: at most Ray"][1] is None


def test_targets_know_what_a_work_may_take() -> None:
    results = some_results()
    aims = {target.title: target.aim(results) for target in TARGETS}
    assert aims["`flat`: at most 1/5 of pebble"] == pytest.approx(0.1)
    assert aims["`durable`: at most what pebble takes for `flat`, which is not durable"] == pytest.approx(0.1)
    assert aims["import: at most 60 ms"] == pytest.approx(0.06)
    assert aims["`array`: at most Ray"] is None


def test_what_is_made_before_a_dispatch_counts_as_part_of_the_whole() -> None:
    made: list[str] = []
    run: list[str] = []

    @contextmanager
    def driver(works: Sequence[Work]) -> Iterator[Run]:
        yield lambda work: run.append(work.name) or work.expected  # type: ignore[func-returns-value]

    library = replace(LIBRARIES["fuseline"], driver=driver, prepare=lambda work: made.append(work.name))
    assert MEASURES["whole"](library, WORKS["flat-whole"], 10) > 0.0
    assert made == run == ["warm-up"] * 3 + ["flat"]
    assert MEASURES["work"](library, WORKS["flat"], 10) > 0.0
    assert len(made) == 4
    assert MEASURES["whole"](replace(library, prepare=None), WORKS["flat-whole"], 10) > 0.0


def test_the_title_of_a_work_tells_its_size() -> None:
    results = Results()
    results.add("fuseline", "array", 32 << 20, 0.1)
    assert "one step makes 32 MiB, eight read it; seconds" in as_markdown(
        results, list(LIBRARIES.values()), list(WORKS.values()), "work"
    )


def test_what_differs_much_is_measured_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "measure", lambda *arguments: 1.0)
    results = Results()
    kinds = [WORKS["array"], WORKS["flat"]]
    measure_all(
        results, [LIBRARIES["fuseline"]], kinds, repeat=2, bound=1.0, sizes=lambda kind: 1, tell=lambda what: None
    )
    assert [len(results.measured[kind.name, "fuseline"]) for kind in kinds] == [6, 2]


def test_the_guard_tells_what_is_slower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(guard, "ACCEPTED", tmp_path / "accepted.json")
    results = some_results()
    fine = "guard: nothing is slower than accepted"
    assert guard.compare(results) == ([fine], True)
    guard.accept(results)
    flat = "flat: {} of pebble, accepted 0.40, 1.5 times that allowed: {}"
    durable = "durable: 0.50 of pebble, accepted 0.50, 1.5 times that allowed: as before"
    assert guard.compare(results) == ([durable, flat.format("0.40", "as before"), fine], True)
    results.measured["flat", "fuseline"] = [0.35]
    slower = [durable, flat.format("0.70", "slower"), "guard: 1 of 2 fail, or are slower than accepted"]
    assert guard.compare(results) == (slower, False)
    results.measured["flat", "fuseline"] = [0.1]
    assert guard.compare(results) == ([durable, flat.format("0.20", "faster"), fine], True)


def test_the_guard_lets_nothing_pass_that_fails_or_was_not_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guard, "ACCEPTED", tmp_path / "accepted.json")
    guard.accept(some_results())
    for library, said in (("fuseline", "flat: fuseline fails: wrong"), ("pebble", "durable: there is nothing to")):
        results = some_results()
        del results.measured["flat", library]
        results.problems["flat", library] = "wrong"
        lines, is_fine = guard.compare(results)
        assert not is_fine
        assert any(line.startswith(said) for line in lines), lines


def test_a_part_of_the_measurements_is_not_written_into_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "performance.md"
    monkeypatch.setattr(page, "PAGE", path)
    said = CliRunner().invoke(main, ["--only", "fuseline", "--works", "import", "--repeat", "1", "--page"])
    assert said.exit_code == 0, said.output
    assert "stays as it is" in said.output
    assert not path.exists()


def test_the_page_has_numbers_between_its_marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text(page.PAGE.read_text())
    monkeypatch.setattr(page, "PAGE", path)
    monkeypatch.setattr(page, "draw", lambda *args: None)
    libraries, kinds = list(LIBRARIES.values()), list(WORKS.values())
    page.write_page(some_results(), libraries, kinds)
    once = path.read_text()
    assert once.count("| 0.40 x |") == 2  # in the table, and as a target
    assert "- `flat` in dask: exit code 1: no room" in once
    page.write_page(some_results(), libraries, kinds)
    assert path.read_text() == once
    path.write_text("nothing")
    with pytest.raises(ValueError, match="has no lines"):
        page.write_page(some_results(), libraries, kinds)


def test_libraries_take_turns() -> None:
    results = Results()
    told: list[str] = []
    libraries = [LIBRARIES["fuseline"], LIBRARIES["stdlib"]]
    measure_all(results, libraries, [WORKS["import"]], repeat=2, bound=BOUND, sizes=lambda kind: 1, tell=told.append)
    assert told == [
        "import, fuseline: 1 of 2",
        "import, stdlib: 1 of 2",
        "import, stdlib: 2 of 2",
        "import, fuseline: 2 of 2",
    ]
    assert len(results.measured["import", "stdlib"]) == 2


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    arguments = ["--only", "fuseline", "--works", "flat,import", "--quick", "--repeat", "1", "--json", str(file)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "`flat`" not in done.output
    assert "flat: independent" in done.output
    assert [each["work"] for each in json.loads(file.read_text())["measured"]] == ["flat"]
    again = CliRunner().invoke(main, ["--from", str(file), "--only", "fuseline"])
    assert again.exit_code == 0, again.output
