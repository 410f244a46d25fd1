"""`eigenstep diagnose`: what your own optimizer will do on your own model, with the evidence."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenstep.cli import common, options

if TYPE_CHECKING:
    from eigenstep.diagnosis.result import Diagnosis

UNSTABLE = 3  # the exit code on which a script can gate


@click.command()
@click.argument("target", metavar="FILE.py:FUNCTION")
@click.option("--clip", type=options.number, help="The max_norm that you clip gradients to, if you do.")
@options.schedule_options
@click.option("--horizon", type=int, default=1000, show_default=True, help="Updates of the run that is judged.")
@click.option("--batches", type=int, default=8, show_default=True, help="Mini-batches over which the ratio is spread.")
@click.option(
    "--seconds", type=options.number, default=60.0, show_default=True, help="Parts that do not fit are left out, named."
)
@click.option("--tol", type=options.number, default=1e-2, show_default=True, help="Relative residual to reach.")
@click.option("--quick", is_flag=True, help="Residuals only: do not confirm that the eigenvalue is the largest one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random starts.")
@click.option("--report", type=options.OutFile(), metavar="FILE.html", help="Write one self-contained page.")
@options.json_option
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    clip: float | None,
    schedule: str,
    warmup: float,
    horizon: int,
    batches: int,
    seconds: float,
    tol: float,
    quick: bool,
    seed: int,
    report: Path | None,
    as_json: bool,
) -> None:
    r"""What your optimizer will do on your model, as both stand, from FUNCTION of FILE.py.

    FUNCTION takes nothing and returns an eigenstep.Objective, an optimizer and, if there are such, a train loader (else
    None) and the scheduler of the optimizer.
    The exit code is 0; 2 for bad input; 3 if the verdict is that it is unstable, or has diverged already.

    \b
    eigenstep diagnose examples/digits_mlp.py:objective
    eigenstep diagnose train.py:objective --clip 1.0 --schedule cosine --warmup 0.1 --report report.html
    """
    from eigenstep.cli import target as user
    from eigenstep.diagnosis import diagnose
    from eigenstep.diagnosis.page import diagnosis_page

    objective, optimizer, train, _scheduler = user.load_with_optimizer(target)  # kept alive
    asked: dict[str, Any] = {"clip": clip, "schedule": schedule, "warmup": warmup, "horizon": horizon, "tol": tol}
    more: dict[str, Any] = {"batches": batches, "seconds": seconds, "quick": quick, "seed": seed}
    found = diagnose(objective, optimizer, train=train, progress=True, **asked, **more)
    if report is not None:
        diagnosis_page(found, target).write(report)
    if as_json:
        common.print_json("diagnosis", found.as_dict())
    else:
        _show(found)
        if report is not None:
            common.say(f"in {report}")
    if found.failing:
        ctx.exit(UNSTABLE)


def _show(found: "Diagnosis") -> None:
    """Print the sentence, the numbers, the table of changes, the notes."""
    from eigenstep.diagnosis.rows import CHANGE_COLUMNS, CHANGE_NOTE

    common.say(found.sentence)
    common.say(f"({found.assumption})")
    common.say()
    common.table("", ("", ""), found.rows())
    if found.changes:
        common.say()
        common.table("What a change would do", CHANGE_COLUMNS, found.change_rows())
        common.say(f"({CHANGE_NOTE})")
    common.say()
    for note in found.notes:
        common.say(f"note: {note}")
    for name, reason in found.reasons.items():
        common.say(f"not given, {name.replace('_', ' ')}: {reason}")
