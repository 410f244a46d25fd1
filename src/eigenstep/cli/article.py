"""`eigenstep article`: the article's experiments reproduced, predicted and taken further; every figure."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigenstep.cli import common, options

if TYPE_CHECKING:
    from eigenstep.article.experiments import Outcome
    from eigenstep.article.tuned import Tuned


@click.command()
@options.out_option("results/article")
@options.json_option
def command(out: Path, as_json: bool) -> None:
    """The article's four runs, counted as its own loop counts, beside the prediction; then every optimiser tuned alike.

    Writes results.json, and each figure as PNG and SVG. Every file is whole: a run that is killed leaves those that it
    finished.
    """
    from eigenstep import draw
    from eigenstep.article.experiments import run_experiments
    from eigenstep.article.figures import FIGURES, Results
    from eigenstep.article.tuned import tune_alike
    from eigenstep.files import jsonable, write_envelope

    began = time.perf_counter()
    where = common.folder(out)
    with common.one_thread():
        with common.progress("the four runs") as progress:
            outcomes = run_experiments(progress)
        with common.progress("tuned alike") as progress:
            tuned = tune_alike(progress)
        content = as_dict(outcomes, tuned)
        write_envelope(where / "results.json", "article", jsonable(content))
        if not as_json:
            show(outcomes, tuned)
        results, files = Results(outcomes, tuned), []
        with common.progress("figures") as progress:
            for name, figure in FIGURES.items():
                files.append(draw.save(figure(results), where, name)[0])
                progress(len(files), len(FIGURES))
    if as_json:
        common.print_json("article", {**content, "figures": [str(file) for file in files]})
        return
    common.say()
    common.say(
        f"{time.perf_counter() - began:.0f} s. In {where}: results.json and {len(files)} figures, as PNG and SVG: "
        f"{', '.join(file.stem for file in files)}"
    )


def as_dict(outcomes: "Sequence[Outcome]", tuned: "Sequence[Tuned]") -> dict[str, object]:
    """Return the results as plain data for JSON."""
    return {
        "experiments": [outcome.as_dict() for outcome in outcomes],
        "exact": all(outcome.exact for outcome in outcomes),
        "tuned": [one.as_dict() for one in tuned],
    }


def show(outcomes: "Sequence[Outcome]", tuned: "Sequence[Tuned]") -> None:
    """Print the article's table, and that of every optimiser tuned alike."""
    columns = (
        "the article's run",
        "article_count printed",
        "article_count in float32",
        "article_count measured",
        "article_count predicted",
        "article_count at 45°",
        "afterwards, in updates",
    )
    rows: list[tuple[common.Cell, ...]] = [
        (
            outcome.experiment.title,
            "diverged" if outcome.experiment.printed is None else f"{outcome.experiment.printed}",
            outcome.float32,
            outcome.article_count,
            outcome.predicted,
            outcome.rotated,
            _afterwards(outcome),
        )
        for outcome in outcomes
    ]
    common.table("", columns, rows)
    common.say("The article's loop tests the loss before each step: article_count is updates + 1. At 45°: the same")
    common.say("problem with its eigenvectors turned. Predicted from the eigenvalues alone, for the linear methods.")
    common.say()
    lines: list[tuple[common.Cell, ...]] = [
        (one.name, one.lr, one.predicted, one.measured, "for ever" if one.predicted else f"within {one.within:,}")
        for one in tuned
    ]
    common.table(
        "Updates until the loss stays below 1e-6, lr tuned alike for that count",
        ("optimiser", "lr", "predicted", "measured", "stays"),
        lines,
    )


def _afterwards(outcome: "Outcome") -> str:
    """Whether the loss stayed below the tolerance, in words."""
    if outcome.diverged:
        return f"left the box at {outcome.article_count}"
    if outcome.settled is not None:
        return f"settled at {outcome.settled} (predicted {outcome.predicted_settled})"
    last = outcome.last_above
    if last is None or last >= outcome.within:
        return f"above to the end, within {outcome.within:,}"
    return f"last above at {last}, below from {last + 1} on, within {outcome.within:,}"
