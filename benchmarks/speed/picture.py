"""The picture: a panel of bars for each kind of work, with what is aimed at, and growth over size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.libraries import Library
from benchmarks.speed.results import Results
from benchmarks.speed.targets import TARGETS
from benchmarks.speed.works import MAPS, OURS, Kind

__all__ = ["draw"]

_OURS_COLOR, _PEER_COLOR, _AIM_COLOR = "#c2410c", "#a3a3a3", "#1d4ed8"
#: Kinds that have a panel of their own, in this order; others that are measures of one of them are shown in its panel.
_PANELS = ("flat", "layers", "chain", "runs", "array", "durable", "spins", "import", "cold")
_COLUMNS = 5
_ROWS = 7  #: bars that a panel has room for at least
_UNITS = {"µs per step": "µs per step", "seconds": "s", "ms": "ms", "share of the ideal": "% over the ideal"}
_SUFFIXES = {"again": ", once more", "whole": ", all of it"}


def draw(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind], path: Path) -> None:
    """Write a picture to a file, SVG or PNG by its name."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "speed"  # the same numbers make the same file
    by_name = {kind.name: kind for kind in kinds if kind.name in results.sizes}
    panels = [by_name[name] for name in _PANELS if name in by_name]
    rows = -(-(len(panels) + 1) // _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(16, 3.4 * rows), layout="constrained", squeeze=False)
    places = iter(axes.flat)
    for kind in panels:
        _draw_bars(
            next(places), results, libraries, [kind, *(each for each in by_name.values() if each.of == kind.name)]
        )
    _draw_growth(next(places), results, list(by_name.values()))
    for unused in places:
        unused.set_visible(False)
    figure.suptitle(
        "What a step costs: less is better, scales are logarithmic, blue lines are the aims of fuseline", fontsize=12
    )
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _draw_bars(axes: Any, results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> None:
    """Draw what each library takes for a kind of work, the least at the top."""
    bars = sorted(_bars(results, libraries, kinds), reverse=True)
    values = [value for value, _, _ in bars]
    colors = [_OURS_COLOR if is_ours else _PEER_COLOR for _, _, is_ours in bars]
    drawn = axes.barh(range(len(bars)), values, color=colors, height=0.7)
    axes.bar_label(
        drawn, [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values], fontsize=7, padding=2
    )
    axes.set_yticks(range(len(bars)), [name for _, name, _ in bars], fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_ylim(len(bars) - max(len(bars), _ROWS) - 0.6, len(bars) - 0.4)
    axes.tick_params(axis="x", which="both", bottom=False, labelbottom=False)  # the bars say it
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{kinds[0].name}, {_UNITS[kinds[0].unit]}", fontsize=10)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    for target in TARGETS:
        if target.work == kinds[0].name and (aim := target.aim(results)) is not None:
            axes.axvline(_shown(results, kinds[0], aim), color=_AIM_COLOR, linewidth=1, linestyle="--", zorder=0.5)


def _bars(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> Iterator[tuple[float, str, bool]]:
    for kind in kinds:
        for library in libraries:
            if (value := results.median(kind.name, library.name)) is not None:
                name = library.title.replace("`", "") + _SUFFIXES.get(kind.measure, "")
                if kind.unit == "µs per step" and library.name in MAPS:
                    name += ", a map"
                yield _shown(results, kind, value), name, library.name in OURS


def _shown(results: Results, kind: Kind, value: float) -> float:
    """Return a number in the unit of its panel."""
    if kind.ideal is not None:
        return (value / kind.ideal(results.sizes[kind.name]) - 1) * 100
    return value * {"µs per step": 1e6 / results.sizes[kind.name], "seconds": 1, "ms": 1e3}[kind.unit]


def _draw_growth(axes: Any, results: Results, kinds: Sequence[Kind]) -> None:
    """Draw what a step costs in works of different size."""
    most = 0.0
    for name, title, style in (("dag", "one graph", "-"), ("runs", "runs of five steps", "--")):
        points = [
            (results.sizes[kind.name], value / results.sizes[kind.name] * 1e6)
            for kind in kinds
            if kind.group == "growth" and kind.name.startswith(f"{name}-") and kind.unit == "µs per step"
            if (value := results.ours(kind.name)) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), style, marker="o", color=_OURS_COLOR, label=title)
            most = max(most, *(cost for _, cost in points))
    if not most:
        axes.set_visible(False)
        return
    axes.set_xscale("log")
    axes.set_ylim(0, most * 1.2)
    axes.set_xlabel("steps", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_title("fuseline by size, µs per step", fontsize=10)
    axes.legend(fontsize=8, loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
