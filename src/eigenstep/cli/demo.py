"""`eigenstep demo`, the main job: every predicted limit beside the one found by running, on real losses."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenstep.cli import common

if TYPE_CHECKING:
    from eigenstep.verify import LimitCheck, Orbit, ProblemCheck

LOSSES = ("breast-cancer", "diabetes", "digits")


@click.command()
@common.out_option("results/demo")
@common.json_option
def command(out: Path, as_json: bool) -> None:
    """The main job: predicted beside measured limits on three real losses; under a minute.

    For each loss, at its minimum: the exact spectrum, and the largest stable lr of seven methods, predicted and found
    by running them on the loss itself and bisecting; and how far plain Adam stays from the minimum.
    """
    from eigenstep import draw
    from eigenstep.problems import problem_named
    from eigenstep.spectrum import write_envelope
    from eigenstep.verify import check_problem
    from eigenstep.verify.figure import limits_figure

    began = time.perf_counter()
    where = common.folder(out)
    checks, files = [], []
    with common.one_thread():
        for name in LOSSES:
            with common.progress(name) as progress:
                checks.append(check_problem(problem_named(name), progress))
            files.append(draw.save(limits_figure(checks[-1]), where, f"limits-{name}")[0])
            if not as_json:
                _show(checks[-1])
    seconds = time.perf_counter() - began
    limits = [limit for check in checks for limit in check.limits]
    content: dict[str, Any] = {
        "losses": [check.as_dict() for check in checks],
        "largest_difference": _largest(limits),
        "met": all(limit.met for limit in limits),
        "seconds": round(seconds, 1),
        "figures": [str(file) for file in files],
    }
    files.append(where / "results.json")
    write_envelope(files[-1], "demo", common.jsonable(content))
    if as_json:
        common.print_json("demo", content)
        return
    common.say(_summary(limits))
    common.say(f"{seconds:.0f} s. Written: {', '.join(map(str, files))} (the figures as SVG too)")


def _show(check: "ProblemCheck") -> None:
    """Print the table of one loss, and Adam's orbit in a sentence."""
    s = check.spectrum
    common.say(
        f"{check.problem.name}: {check.problem.dimension} parameters; Hessian at the minimum: eigenvalues "
        f"{s.smallest:.4g} to {s.largest:.4g}, condition number {s.condition:.4g}"
    )
    columns = (
        "method",
        "how",
        "sharpness",
        "largest stable lr, predicted",
        "measured",
        "+-",
        "difference",
        "goal",
        "met",
    )
    rows: list[tuple[common.Cell, ...]] = [_row(limit) for limit in check.limits]
    common.table("", columns, rows)
    common.say(_orbit(check.orbit))
    common.say()


def _row(limit: "LimitCheck") -> tuple[common.Cell, ...]:
    from eigenstep.verify import GOALS

    return (
        limit.rule.name,
        limit.kind,
        f"{limit.sharpness:.5g}",
        f"{limit.predicted:.6g}",
        f"{limit.measured.lr:.6g}",
        f"{limit.measured.uncertainty:.2%}",
        f"{limit.difference:+.2%}",
        f"{GOALS[limit.kind]:.0%}",
        limit.met,
    )


def _orbit(orbit: "Orbit") -> str:
    lr = float(orbit.rule.lr)
    return (
        f"plain {orbit.rule.name} (lr {lr:g}, eps 1e-8) does not converge: over updates {orbit.updates // 2:,} to "
        f"{orbit.updates:,} its coordinates stay {orbit.median:.3g} from the minimum (median rms; 10% to 90%: "
        f"{orbit.spread[0]:.3g} to {orbit.spread[1]:.3g}), predicted lr / 38 = {orbit.predicted:.3g} "
        f"({orbit.difference:+.1%}), with bursts to {orbit.largest / lr:.2g} lr. "
        f"It would converge with eps above {orbit.converging_eps:.2g}."
    )


def _largest(limits: "list[LimitCheck]") -> dict[str, float]:
    """The largest relative difference of each kind."""
    found: dict[str, float] = {}
    for limit in limits:
        found[limit.kind] = max(found.get(limit.kind, 0.0), abs(limit.difference))
    return found


def _summary(limits: "list[LimitCheck]") -> str:
    from eigenstep.verify import GOALS

    parts = [f"{kind} {worst:.2%} (goal {GOALS[kind]:.0%})" for kind, worst in _largest(limits).items()]
    met = sum(limit.met for limit in limits)
    return f"{met} of {len(limits)} predicted limits met by running. Largest differences: {', '.join(parts)}."
