"""Has something become slower? Ratios to pebble, measured beside us, and the last ones that were accepted.

Seconds say more about the machine and the hour. A ratio that is larger than the accepted one by more than measurements
differ among themselves is a step back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed.results import Results
from benchmarks.speed.works import OURS

__all__ = ["ACCEPTED", "accept", "compare"]

ACCEPTED = Path(__file__).with_name("accepted.json")
_PEER = "pebble"
#: A ratio may be larger than the accepted one by this factor.
_NOISE = 1.5
#: The same of works whose time is that of their steps, nearly.
_NOISES = {"spins": 1.05}
#: What no peer does is compared with another work, step by step.
_BESIDE = {"durable": "flat"}


def accept(results: Results) -> None:
    """Let the ratios of these results be those to compare with, for the works that are among them."""
    known = _accepted() | {work: round(ratio, 3) for work in results.sizes if (ratio := _ratio(results, work))}
    ACCEPTED.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")


def compare(results: Results) -> tuple[list[str], bool]:
    """Return a line for each work that was to be compared, and a last one; and whether nothing is slower or fails."""
    lines = list(_lines(results))
    wrong = sum(not is_fine for _, is_fine in lines)
    last = f"{wrong} of {len(lines)} fail, or are slower than accepted" if wrong else "nothing is slower than accepted"
    return [*(line for line, _ in lines), f"guard: {last}"], not wrong


def _lines(results: Results) -> Iterator[tuple[str, bool]]:
    for (work, library), problem in results.problems.items():
        if library in OURS:
            yield f"{work}: {library} fails: {problem}", False
    for work, before in _accepted().items():
        if work not in results.sizes or any((work, ours) in results.problems for ours in OURS):
            continue
        ratio = _ratio(results, work)
        if ratio is None:
            yield f"{work}: there is nothing to compare it with", False
            continue
        noise = _NOISES.get(work, _NOISE)
        verdict = "slower" if ratio > before * noise else "faster" if ratio * noise < before else "as before"
        told = f"{work}: {ratio:.2f} of {_PEER}, accepted {before:.2f}, {noise:g} times that allowed: {verdict}"
        yield told, verdict != "slower"


def _ratio(results: Results, work: str) -> float | None:
    """Return our median for a step, as a share of the peer's."""
    beside = _BESIDE.get(work, work)
    ours, peer = results.ours(work), results.median(beside, _PEER)
    if ours is None or peer is None:
        return None
    return ours / results.sizes[work] / (peer / results.sizes[beside])


def _accepted() -> dict[str, float]:
    return dict(json.loads(ACCEPTED.read_text())) if ACCEPTED.exists() else {}
