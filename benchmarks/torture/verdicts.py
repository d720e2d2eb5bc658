"""What became of a batch with one hostile step: contained, or what else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.torture.libraries import Outcome
from benchmarks.torture.program import EXPECTED, HOSTILE_CALL
from benchmarks.torture.steps import HostileStep

__all__ = ["CONTAINED", "HANGS", "Verdict", "judge", "judge_orphans"]

CONTAINED = "contained"
HANGS = "hangs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    text: str  #: as in the table
    is_good: bool = False
    detail: str = ""  #: what was seen, for those who want to know more


def judge(step: HostileStep, outcomes: Sequence[Outcome] | None, exit_code: int | None) -> Verdict:
    """Judge what a program has written down, and how it has ended.

    Args:
        outcomes: of all calls; or the only one is that of the driver, which did not get to its calls' outcomes.
        exit_code: None if the program had not ended within its bound.
    """
    if outcomes is None:
        return (
            Verdict(text=HANGS) if exit_code is None else Verdict(text="ends the program", detail=f"code {exit_code}")
        )
    if len(outcomes) == 1:
        return _judge_driver(outcomes[0])
    verdict = _judge_siblings(outcomes) or _judge_hostile(step, outcomes[HOSTILE_CALL])
    if verdict.is_good and exit_code != 0:
        return Verdict(text="hangs at its end" if exit_code is None else "fails at its end", detail=verdict.detail)
    return verdict


def judge_orphans(before: int, alive: int) -> Verdict:
    """Judge how many of a killed program's children were alive a moment later."""
    return Verdict(text=f"{alive} of {before}", is_good=alive == 0)


def _judge_driver(outcome: Outcome) -> Verdict:
    text = "does not run here" if outcome.is_ordinary else "escapes raw"
    return Verdict(text=text, detail=_show(outcome))


def _judge_siblings(outcomes: Sequence[Outcome]) -> Verdict | None:
    siblings = [outcome for i, outcome in enumerate(outcomes) if i != HOSTILE_CALL]
    failed = [outcome for outcome in siblings if outcome.error is not None]
    if failed:
        return Verdict(text="siblings fail", detail=f"{len(failed)} of {len(siblings)}: {_show(failed[0])}")
    values = [outcome.value for outcome in siblings]
    if values != EXPECTED:
        return Verdict(text="siblings are wrong", detail=f"{values} instead of {EXPECTED}")
    return None


def _judge_hostile(step: HostileStep, outcome: Outcome) -> Verdict:
    shown = _show(outcome)
    if not outcome.is_ordinary:
        return Verdict(text="escapes raw", detail=shown)
    if outcome.error is not None:
        text = "its value is lost" if step.must_end_well else CONTAINED
        return Verdict(text=text, is_good=not step.must_end_well, detail=shown)
    if step.value is not None and outcome.value == step.value:
        return Verdict(text=CONTAINED, is_good=True, detail=shown)
    return Verdict(text="the fork's value wins" if step.must_end_well else "passes as a success", detail=shown)


def _show(outcome: Outcome) -> str:
    return f"{outcome.error}: {outcome.message}" if outcome.error is not None else f"value {outcome.value!r}"
