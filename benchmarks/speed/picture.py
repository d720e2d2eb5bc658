"""The picture: bars for each work, and growth over size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.libraries import Library
from benchmarks.speed.results import Results
from benchmarks.speed.works import Kind

__all__ = ["draw"]


def draw(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind], path: Path) -> None:
    """Write a picture to a file, SVG or PNG by its name."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "speed"  # the same numbers make the same file
    works = [kind for kind in kinds if kind.group == "work" and kind.name in results.sizes]
    works = [kind for kind in works if kind.unit == "µs per step"]
    figure, (bars, growth) = plt.subplots(
        1, 2, figsize=(12, 5), width_ratios=[3, 1], layout="constrained", gridspec_kw={"wspace": 0.03}
    )
    shown = {library.title: [each for each in libraries if each.title == library.title] for library in libraries}
    shown = {
        title: members
        for title, members in shown.items()
        if any((kind.name, each.name) in results.measured for kind in works for each in members)
    }
    width = 0.85 / len(shown)
    for place, (title, members) in enumerate(shown.items()):
        places, heights = [], []
        for number, kind in enumerate(works):
            for library in members:
                if (value := results.median(kind.name, library.name)) is not None:
                    places.append(number + (place - (len(shown) - 1) / 2) * width)
                    heights.append(value / results.sizes[kind.name] * 1e6)
        color = "#c2410c" if title == "fuseline" else plt.get_cmap("Greys")(0.35 + 0.55 * place / len(shown))
        drawn = bars.bar(places, heights, width, label=title.replace("`", ""), color=color)
        bars.bar_label(drawn, fmt="%.0f", fontsize=6, rotation=90, padding=2)
    bars.set_yscale("log")
    bars.set_xticks(range(len(works)), [kind.name for kind in works], fontsize=8)
    bars.set_ylabel("µs per step (log)")
    bars.set_title("What a step costs, less is better")
    bars.margins(y=0.12)
    bars.legend(fontsize=8, ncols=10, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    for name, title in (("dag", "one graph"), ("runs", "runs of five steps")):
        sizes = [kind for kind in kinds if kind.name.startswith(f"{name}-") and kind.name in results.sizes]
        points = [
            (results.sizes[kind.name], value / results.sizes[kind.name] * 1e6)
            for kind in sizes
            if kind.group == "growth" and kind.unit == "µs per step" and (value := results.ours(kind.name)) is not None
        ]
        if points:
            growth.plot(*zip(*points, strict=True), marker="o", label=title)
    growth.set_xscale("log")
    growth.set_ylim(bottom=0)
    growth.set_xlabel("steps (log)")
    growth.set_ylabel("µs per step")
    growth.set_title("fuseline, by size")
    growth.legend(fontsize=8, loc="lower right", frameon=False)
    for axes in (bars, growth):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
