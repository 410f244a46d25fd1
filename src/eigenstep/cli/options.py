"""Options that several commands have, and how a number, a list of numbers and a file to be written are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from eigenstep.cli import streams
from eigenstep.files import refuse_unwritable


class OutFile(click.ParamType):  # type: ignore[type-arg]  # generic in click 8.5, not in 8.1
    """A path that can be written, checked as the command line is read: before any work."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return it as a Path. Raises BadFile."""
        return refuse_unwritable(value)


class NumericCommand(click.Command):
    """A command whose arguments may be negative numbers: they are not taken for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the sign of a negative number as a minus, which `number` reads and click does not."""
        return super().parse_args(ctx, ["−" + a[1:] if a.startswith("-") and _is_number(a) else a for a in args])


def number(text: str) -> float:
    """Read a number, a typographic minus included; nan and the like are left to the library, which says why not.

    >>> number("−2.5")
    -2.5
    """
    try:
        return float(str(text).strip().replace("−", "-"))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a number") from error


def numbers(text: str) -> float | list[float]:
    """Read numbers with commas between them; a single one stays a float."""
    values = [number(part) for part in str(text).split(",")]
    return values[0] if len(values) == 1 else values


def _is_number(text: str) -> bool:
    try:
        number(text)
    except click.BadParameter:
        return False
    return True


def _json_alone(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    """With --json, standard output is for the object alone as long as the command runs."""
    if value:
        ctx.with_resource(streams.result_only())
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_json_alone, help="Print one JSON object and nothing else."
)


def out_option(default: str) -> Callable[[Any], Any]:
    """--out DIR, with this default."""
    return click.option(
        "--out",
        type=Path,
        metavar="DIR",
        default=default,
        show_default=True,
        help="Folder for figures and results; made if need be.",
    )


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--rule, --lr, --momentum and --set."""
    options = (
        click.option("--rule", required=True, metavar="NAME", help="The rule's name, as heavy-ball; also NAME:lr=0.1."),
        click.option("--lr", type=number, help="Learning rate [default: the rule's own]."),
        click.option("--momentum", type=number, help="Momentum, or the first beta of a rule that has betas."),
        click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other hyperparameter."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def updates_or_share(text: str) -> float:
    """Read a whole number of updates, or a share of them with a point in it: 100, 0.1."""
    return int(text) if str(text).isdigit() else number(text)


def schedule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--schedule and --warmup: the lr's shape over the run."""
    options = (
        click.option("--schedule", default="constant", show_default=True, help="constant, cosine, linear or wsd."),
        click.option(
            "--warmup",
            type=updates_or_share,
            default=0,
            show_default=True,
            metavar="N",
            help="Linear warm-up: updates, or a share of the run, as 0.1.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def spectrum_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Eigenvalues as arguments, or --spectrum; and --unit for adaptive rules."""
    options = (
        click.argument("eigenvalues", nargs=-1, type=number),
        click.option("--spectrum", "file", metavar="FILE.json", help="Read the eigenvalues from a saved spectrum."),
        click.option("--unit", type=numbers, help="Frozen unit P of an adaptive rule: one number, or one a value."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def tolerance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--start, --loss, --radius and --point, for counts."""
    options = (
        click.option("--start", type=numbers, help="Error at the start along each eigenvector: a,b,... or one number."),
        click.option("--loss", type=number, help="Count the updates until the loss is this small."),
        click.option("--radius", type=number, help="Count the updates until the error is this short."),
        click.option(
            "--point",
            type=click.Choice(["iterate", "stored"]),
            default="iterate",
            show_default=True,
            help="Nesterov's iterate, or the look-ahead point that torch stores.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
