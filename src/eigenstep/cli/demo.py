"""`eigenstep demo`, the main job: the article's table, predicted limits beside measured ones, advice, the explorer."""

import pickle
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenstep.cli import common, options
from eigenstep.cli.demo_advice import advise

if TYPE_CHECKING:
    from eigenstep.verify import LimitCheck, Orbit, ProblemCheck

LOSSES = ("breast-cancer", "diabetes", "digits")


# A section computes, prints its tables unless told to be quiet, and saves its figures into the folder; it returns
# what goes under its name in results.json, and the files.
Section = Callable[[Path, bool], tuple[dict[str, Any], list[Path]]]


@click.command()
@options.out_option("results/demo")
@options.json_option
def command(out: Path, as_json: bool) -> None:
    """The main job: the article's table, limits predicted and measured, advice on a network, the explorer's page.

    For each of three real losses, at its minimum: the exact spectrum, and the largest stable lr of seven methods,
    predicted and found by running them on the loss itself and bisecting; how far plain Adam stays from the minimum.
    Then a network on the digits: its limit, a recommended lr, and runs below and above the edge. About two minutes.
    """
    from eigenstep.files import jsonable, write_envelope

    where = common.folder(out)
    content: dict[str, Any] = {}
    files: list[Path] = []
    began = time.perf_counter()
    with common.one_thread():
        for name, section in SECTIONS.items():
            started = time.perf_counter()
            found, written = section(where, as_json)
            content[name] = {**found, "seconds": round(time.perf_counter() - started, 1)}
            files += written
            if not as_json:
                common.say()
    seconds = time.perf_counter() - began
    content |= {"seconds": round(seconds, 1), "figures": [str(file) for file in files]}
    results = where / "results.json"
    write_envelope(results, "demo", jsonable(content))
    if as_json:
        common.print_json("demo", content)
        return
    common.say(f"{seconds:.0f} s. Written: {', '.join(map(str, [results, *files]))} (the figures as SVG too)")


def _article(where: Path, quiet: bool) -> tuple[dict[str, Any], list[Path]]:
    """The article's experiments: counts printed, measured and predicted; every optimiser tuned alike."""
    from eigenstep.article.experiments import run_experiments
    from eigenstep.article.tuned import tune_alike
    from eigenstep.cli import article

    with common.progress("the article's runs") as progress:
        outcomes = run_experiments(progress)
    with common.progress("tuned alike") as progress:
        tuned = tune_alike(progress)
    if not quiet:
        article.show(outcomes, tuned)
    return article.as_dict(outcomes, tuned), []


def _losses(where: Path, quiet: bool) -> tuple[dict[str, Any], list[Path]]:
    """Three real losses: the largest stable lr of seven methods, predicted and measured; plain Adam's orbit."""
    checks: list[ProblemCheck] = []
    # One process a core: every step is too small for threads to share. The longest one begins first.
    with common.progress("three losses") as progress, get_context("spawn").Pool(2, _begin_worker) as pool:
        pending = {name: pool.apply_async(_checked, (name, where)) for name in reversed(LOSSES)}
        for name in LOSSES:
            checks.append(pickle.loads(pending[name].get()))
            progress(len(checks), len(LOSSES))
            if not quiet:
                _show(checks[-1])
    limits = [limit for check in checks for limit in check.limits]
    if not quiet:
        common.say(_summary(limits))
    found = {
        "losses": [check.as_dict() for check in checks],
        "largest_difference": _largest(limits),
        "met": all(limit.met for limit in limits),
    }
    return found, [where / f"limits-{name}.png" for name in LOSSES]


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, which ends its workers, and work in one thread."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _checked(name: str, where: Path) -> bytes:
    """Check one loss and save its figure; the result pickled here, since torch would pass tensors by shared memory."""
    from eigenstep import draw
    from eigenstep.problems import problem_named
    from eigenstep.verify import check_problem
    from eigenstep.verify.figure import limits_figure

    check = check_problem(problem_named(name))
    draw.save(limits_figure(check), where, f"limits-{name}")
    return pickle.dumps(check)


def _page(where: Path, quiet: bool) -> tuple[dict[str, Any], list[Path]]:
    """The explorer as one file, with the digits network's recommendation in it where this demo has made one."""
    from eigenstep.page import export, read_report

    report = where / "recommendation.json"
    page = export(where / "explorer.html", read_report(report) if report.exists() else None, name="digits network")
    if not quiet:
        common.say(f"To play with, in any browser, offline: {page.resolve()} (or live: eigenstep explore)")
    return {"page": str(page)}, []


SECTIONS: dict[str, Section] = {"article": _article, "limits": _losses, "advice": advise, "explorer": _page}


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
