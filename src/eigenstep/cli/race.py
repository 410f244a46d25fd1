"""`eigenstep race`: several rules on one problem, a table and a figure."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigenstep.cli import common, options

if TYPE_CHECKING:
    from eigenstep.verify import Entry


@click.command(cls=options.NumericCommand)
@click.option("--problem", required=True, metavar="NAME", help="quadratic (the article's), rosenbrock, digits, ...")
@click.option(
    "--rule",
    "rules",
    required=True,
    multiple=True,
    metavar="NAME:lr=..,..",
    help="A rule with its settings, as adam:lr=0.01,betas=0.9,0.99; once for each.",
)
@click.option(
    "--start", type=options.numbers, help="Where to begin: one number per coordinate [default: the problem's]."
)
@click.option("--loss", type=options.number, help="Tolerance on the loss above the minimum's [default: 1e-6].")
@click.option("--radius", type=options.number, help="Tolerance on the distance to the minimum.")
@click.option(
    "--box", type=options.number, help="A rule has diverged when a coordinate is this large [default: never]."
)
@click.option("--steps", type=click.IntRange(min=1), default=10_000, show_default=True, help="Updates of each rule.")
@options.out_option("results/race")
@options.json_option
def command(
    problem: str,
    rules: tuple[str, ...],
    start: float | list[float] | None,
    loss: float | None,
    radius: float | None,
    box: float | None,
    steps: int,
    out: Path,
    as_json: bool,
) -> None:
    r"""Several rules on one problem, from the same start: who meets the tolerance first, and who stays there.

    \b
    eigenstep race --problem quadratic --rule gradient-descent:lr=0.0198 --rule adam:lr=0.02
    eigenstep race --problem diabetes --rule heavy-ball:lr=0.3 --rule nesterov:lr=0.3 --loss 1e-8
    """
    import torch

    from eigenstep import draw
    from eigenstep.problems import problem_named
    from eigenstep.verify import race, race_figure

    chosen = problem_named(problem)
    runners = [common.rule_from(rule) for rule in rules]
    where = common.folder(out)
    tolerance = 1e-6 if loss is None and radius is None else loss
    begin = None if start is None else torch.tensor([start] if isinstance(start, float) else start).double()
    with common.progress("racing") as progress:
        entries = race(
            runners, chosen, start=begin, loss=tolerance, radius=radius, box=box, steps=steps, progress=progress
        )
    picture, _ = draw.save(race_figure(entries, tolerance), where, f"race-{chosen.name}")
    if as_json:
        goal = {"loss": tolerance, "radius": radius, "box": box}
        results = [entry.as_dict() for entry in entries]
        common.print_json("race", {"problem": chosen.name, **goal, "entries": results, "figure": str(picture)})
    else:
        _show(entries, chosen.name, tolerance, radius)
        common.say(f"figure: {picture}")


def _show(entries: "tuple[Entry, ...]", name: str, loss: float | None, radius: float | None) -> None:
    """Print the table, and what its columns rest on."""
    goals = [f"loss {loss:g} above the minimum's"] if loss is not None else []
    goals += [f"distance {radius:g} to the minimum"] if radius is not None else []
    common.say(f"{name}: updates to {' and '.join(goals)}, at most {entries[0].run.max_steps:,}")
    common.say()
    rows: list[tuple[common.Cell, ...]] = [
        (
            common.describe(entry.rule),
            entry.run.steps,  # type: ignore[misc]
            entry.prediction.steps if entry.prediction else None,
            _after(entry),
            float(entry.rule.lr) / entry.limit if entry.limit else None,
            float(entry.losses[-1]),
        )
        for entry in entries
    ]
    columns = ("rule", "updates", "predicted", "afterwards", "lr / largest stable lr", "loss at the end")
    common.table("", columns, rows)
    common.say()
    if any(entry.prediction is None for entry in entries):
        common.say("predicted: exact, where the rule is linear and the loss quadratic.")


def _after(entry: "Entry") -> str:
    """What happened after the tolerance was first met."""
    if entry.run.left is not None:
        return f"left at update {entry.run.left:,}"
    if entry.settled is not None:
        return f"settled at {entry.settled:,}"
    within = f"within {entry.run.max_steps:,}"
    if entry.run.steps is None:
        return f"not met {within}"
    return f"above to the end {within}" if entry.last_above is None else f"last above at {entry.last_above:,} {within}"
