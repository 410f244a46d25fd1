"""`eigenstep recommend`: the learning rate for your own model and optimizer, with the check that was run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenstep.cli import common, options

if TYPE_CHECKING:
    from eigenstep.recommendation.result import Recommendation

NOTHING = 3  # the exit code on which a script can gate: there is no lr to recommend


@click.command()
@click.argument("target", metavar="FILE.py:FUNCTION")
@click.option("--horizon", type=int, default=1000, show_default=True, help="Updates of the run that it is chosen for.")
@options.schedule_options
@click.option("--budget", type=int, help="Training steps of the search. [default: half the horizon, 1000 to 4000]")
@click.option("--seconds", type=options.number, help="Stop the search after so long.")
@click.option("--momentum", type=options.numbers, help="Choose among these as well, as in 0,0.9.")
@click.option("--clip", type=options.number, help="The max_norm that you clip gradients to, if you do.")
@click.option("--fast", is_flag=True, help="An answer in 20 s, with a wider interval.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of dropout and of the order of what is read.")
@click.option("--report", type=options.OutFile(), metavar="FILE.html", help="Write one self-contained page.")
@options.json_option
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    horizon: int,
    schedule: str,
    warmup: float,
    budget: int | None,
    seconds: float | None,
    momentum: float | list[float] | None,
    clip: float | None,
    fast: bool,
    seed: int,
    report: Path | None,
    as_json: bool,
) -> None:
    r"""The lr for your optimizer on your model, found by short real training of copies; from FUNCTION of FILE.py.

    FUNCTION takes nothing and returns an eigenstep.Objective, an optimizer and, if there are such, a train loader (else
    None) and the scheduler of the optimizer.
    The exit code is 0; 2 for bad input; 3 if there is no lr to recommend, since nothing trains.

    \b
    eigenstep recommend examples/digits_cnn.py:objective
    eigenstep recommend train.py:objective --horizon 5000 --schedule cosine --warmup 0.05 --report report.html
    """
    from eigenstep.cli import target as user
    from eigenstep.recommendation import recommend
    from eigenstep.recommendation.page import recommendation_page

    objective, optimizer, train, _scheduler = user.load_with_optimizer(target)  # kept alive
    among = [momentum] if isinstance(momentum, float) else momentum
    run: dict[str, Any] = {"train": train, "horizon": horizon, "schedule": schedule, "warmup": warmup, "clip": clip}
    search: dict[str, Any] = {"budget": budget, "seconds": seconds, "momentum": among, "fast": fast, "seed": seed}
    found = recommend(objective, optimizer, **run, **search, progress=True)
    if report is not None:
        recommendation_page(found, target).write(report)
    if as_json:
        common.echo(found.to_json())
    else:
        _show(found)
        if report is not None:
            common.say(f"in {report}")
    if found.lr is None:
        ctx.exit(NOTHING)


def _show(found: "Recommendation") -> None:
    """Print the answer, the reason, the evidence, the candidates, and what was not checked."""
    from eigenstep.recommendation.page import HEADS

    common.say(found.headline)
    common.say(found.reason)
    common.say()
    common.table("", ("", ""), found.evidence())
    common.say()
    heads = tuple(HEADS[name] for name in found.results)
    common.table("What was run", heads, list(zip(*found.results.values(), strict=True)))
    common.say()
    for text in found.unchecked:
        common.say(f"not checked: {text}")
    for text in found.notes:
        common.say(f"note: {text}")
