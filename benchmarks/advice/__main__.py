"""recommend on one half and setting, case by case: python -m benchmarks.advice development cosine [PART OF A NAME ...].

While recommend is being developed the half is 'development'. Scores are read off the grid; --exact trains instead.
"""

import argparse

from benchmarks.advice import HALVES, HEADER, Outcome, outcomes, row
from benchmarks.advice.grid import load
from benchmarks.advice.lanes import SETTINGS


def line(found: Outcome) -> str:
    """A case in a line."""
    case, advice = found.case, found.advice
    lr = "none" if advice.lr is None else f"{advice.lr:.3g}"
    low, high = advice.interval or (float("nan"), float("nan"))
    words = [
        *(
            f"{case.name:46s} score {found.score:5.2f} (ceiling {case.ceiling:5.2f})",
            f"lr {lr:>8s} best {case.best_lr:8.3g}",
        ),
        *(f"interval {low:8.2g} to {high:8.2g}", "inside " if found.inside else "OUTSIDE", f"{advice.steps:5d} steps"),
        *(
            f"{advice.seconds:5.1f} s",
            "DIVERGED" if found.diverged else "",
            "REASON UNTRUE" if advice.true is False else "",
        ),
    ]
    return "  ".join(word for word in words if word)


def main() -> None:
    """Ask, and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.advice", description=__doc__)
    halves, settings = ({name.replace(" ", "-"): name for name in names} for names in (HALVES, SETTINGS))
    parser.add_argument("half", choices=list(halves))
    parser.add_argument("setting", choices=list(settings))
    parser.add_argument("names", nargs="*", help="parts of the cases' names; all cases without any")
    parser.add_argument("--exact", action="store_true", help="train at the lr advised, rather than read off the grid")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    told = parser.parse_args()
    cases = [
        case
        for case in load(halves[told.half], settings[told.setting])
        if case.scored and (not told.names or any(name in case.name for name in told.names))
    ]
    found = []
    for each in outcomes(cases, quick=not told.exact, jobs=told.jobs):
        found.append(each)
        print(line(each), flush=True)
    if found:
        kinds = dict.fromkeys(o.case.optimizer for o in found)
        parts = {kind: [o for o in found if o.case.optimizer == kind] for kind in kinds} | {"all": found}
        lines = [HEADER, *(row(part, what=kind) for kind, part in parts.items())]
        for cells in lines:
            print("  ".join(cell.ljust(max(len(c[i]) for c in lines)) for i, cell in enumerate(cells)).rstrip())


if __name__ == "__main__":
    main()
