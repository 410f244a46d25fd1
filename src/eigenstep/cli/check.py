"""`eigenstep check`: what to write for the lr, and why, in under a minute."""

from pathlib import Path
from typing import Any

import click

from eigenstep.cli import common, options

FAILING = 3  # the exit code on which a script can gate


@click.command()
@click.argument("target", metavar="FILE.py:FUNCTION")
@click.option("--seconds", type=options.number, default=60.0, show_default=True, help="Time for all of it.")
@click.option("--horizon", type=int, default=1000, show_default=True, help="Updates of the run.")
@options.schedule_options
@click.option("--clip", type=options.number, help="The max_norm that you clip gradients to, if you do.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random starts and of dropout.")
@click.option("--save", type=options.OutFile(), metavar="FILE.json", help="Write all of it, for eigenstep.Check.load.")
@options.json_option
@click.pass_context
def command(ctx: click.Context, /, target: str, save: Path | None, as_json: bool, **asked: Any) -> None:
    r"""What to write for the lr of your optimizer on your model, and why, in under a minute; from FUNCTION of FILE.py.

    FUNCTION takes nothing and returns an eigenstep.Objective, an optimizer and, if there are such, a train loader (else
    None) and the scheduler of the optimizer.
    The exit code is 0; 2 for bad input; 3 if the run as it stands is unstable or has diverged, or no lr is to be had.

    \b
    eigenstep check examples/digits_cnn.py:objective
    eigenstep check train.py:objective --schedule cosine --warmup 0.1
    """
    from eigenstep.cli import target as user
    from eigenstep.front.check import checked

    objective, optimizer, train, _scheduler = user.load_with_optimizer(target)  # kept alive
    found = checked(objective, optimizer, train, progress=True, **asked)
    if save is not None:
        found.save(save)
    if as_json:
        common.echo(found.to_json())
    else:
        common.say(found.sentence)
        common.say()
        common.table("", ("", ""), found.rows())
        for note in found.notes:
            common.say(f"note: {note}")
    if found.failing:
        ctx.exit(FAILING)
