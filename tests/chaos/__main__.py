"""``python -m tests.chaos --minutes N --seed S``: random work, and random faults; exits with 1 if anything is wrong."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from .check import KINDS, Violation
from .session import Session

#: Violations that are printed; all of them are in the folder.
_SHOWN = 30


def main() -> int:
    """Do one session, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long faults are sent (default: 1)")
    parser.add_argument("--seed", type=int, default=None, help="of workflows and faults (default: another each time)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="chaos-")).resolve()
    print(f"chaos of {options.minutes:g} min, seed {seed}, in {folder}", flush=True)
    session = Session(seed, options.minutes * 60, folder)
    try:
        session.run(lambda text: print(text, flush=True))
    except Exception:  # whatever it was, somebody will want to see the folder
        session.violations.append(Violation("unexpected", "session", traceback.format_exc()))
    print(_table(session))
    found = [f"{kind}: {whom}: {what}" for kind, whom, what in session.violations]
    if not (found or session.history.of_kind("settled")):
        found.append("unexpected: no run has ended, so nothing was checked")
    if not found:
        shutil.rmtree(folder)
        return 0
    (folder / "violations").write_text("\n".join([*found, ""]))
    (folder / "faults").write_text("".join(f"{fault}\n" for fault in session.tormentor.faults))
    print(*found[:_SHOWN], f"... {len(found)} in all" * (len(found) > _SHOWN), sep="\n")
    print(f"everything is in {folder}. Again: python -m tests.chaos --minutes {options.minutes:g} --seed {seed}")
    return 1


def _table(session: Session) -> str:
    history = session.history
    kinds = Counter(line.kind for line in history.lines)
    states = Counter(found.state.value for found in history.found.values())
    acts = Counter(line.text for line in history.of_kind("end"))
    rows = {
        "seed": session.seed,
        "runs dispatched": kinds["acked"],
        "dispatches refused": kinds["refused"],
        **{f"runs {state}": count for state, count in sorted(states.items())},
        "attempts begun": kinds["start"],
        **{f"attempts that came to {act}": count for act, count in sorted(acts.items())},
        "ends that were told": len(history.heard) + kinds["settled"],
        **{f"fault {name}": count for name, count in sorted(session.tormentor.counts.items())},
        "faults without a target": session.tormentor.missed,
        "programs started again": sum(end.name != "driver" for end in history.ends),
        **{kind: sum(each.kind == kind for each in session.violations) for kind in KINDS},
    }
    return "\n".join(f"{name:<30} {value:>8}" for name, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
