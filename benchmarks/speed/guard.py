"""Has something become slower? Ratios to a peer that was measured beside us, and the last ones that were accepted.

Seconds say more about the machine and the hour. A ratio that is larger than the accepted one by more than measurements
differ among themselves is a step back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed.results import Results

__all__ = ["ACCEPTED", "accept", "compare"]

ACCEPTED = Path(__file__).with_name("accepted.json")
#: A ratio may be larger than the accepted one by this factor.
_NOISE = 1.5


def accept(results: Results) -> None:
    """Let the ratios of these results be those to compare with, for the works that are among them."""
    known = _accepted() | {work: round(ratio, 3) for work in results.sizes if (ratio := results.ratio(work))}
    ACCEPTED.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")


def compare(results: Results) -> tuple[list[str], bool]:
    """Return a line for each work that can be compared, and whether none has become slower."""
    lines = list(_lines(results))
    return [line for line, _ in lines], all(is_fine for _, is_fine in lines)


def _lines(results: Results) -> Iterator[tuple[str, bool]]:
    accepted = _accepted()
    for work in results.sizes:
        ratio, before = results.ratio(work), accepted.get(work)
        if ratio is None or before is None:
            continue
        peer = results.best_peer(work)
        assert peer is not None
        verdict = "slower" if ratio > before * _NOISE else "faster" if ratio * _NOISE < before else "as before"
        yield f"{work}: {ratio:.2f} of {peer[0]}, accepted {before:.2f}: {verdict}", verdict != "slower"


def _accepted() -> dict[str, float]:
    return dict(json.loads(ACCEPTED.read_text())) if ACCEPTED.exists() else {}
