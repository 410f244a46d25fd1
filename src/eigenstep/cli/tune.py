"""`eigenstep tune`: the best settings of a rule on given eigenvalues."""

import click

from eigenstep.cli import common, options


@click.command(cls=options.NumericCommand)
@options.spectrum_options
@options.rule_options
@options.tolerance_options
@click.option(
    "--over",
    type=click.Choice(["lr", "momentum"]),
    default="lr",
    show_default=True,
    help="What to choose: lr alone, or momentum with its lr.",
)
@click.option("--for-steps", is_flag=True, help="Fewest updates to --loss or --radius, instead of the best rate.")
@options.json_option
def command(
    eigenvalues: tuple[float, ...],
    file: str | None,
    unit: float | list[float] | None,
    rule: str,
    lr: float | None,
    momentum: float | None,
    settings: tuple[str, ...],
    start: float | list[float] | None,
    loss: float | None,
    radius: float | None,
    point: str,
    over: str,
    for_steps: bool,
    as_json: bool,
) -> None:
    r"""The settings of a rule that are best on given eigenvalues of the Hessian.

    \b
    eigenstep tune 1 100 --rule heavy-ball --over momentum
    eigenstep tune 1 100 --rule nesterov --momentum 0.9 --for-steps --start 1 --loss 1e-6
    """
    from eigenstep.errors import InvalidValue
    from eigenstep.theory import tune

    if (loss, radius, start) != (None, None, None) and not for_steps:
        raise InvalidValue("--start, --loss and --radius count updates; add --for-steps to tune for their number")
    spectrum = common.spectrum_from(eigenvalues, file)
    best = tune(
        common.rule_from(rule, {"lr": lr, "momentum": momentum, **dict(map(common.setting, settings))}),
        spectrum,
        over=over,
        for_steps=for_steps,
        start=common.per_eigenvalue(start, spectrum),
        loss=loss,
        radius=radius,
        unit=common.as_unit(unit),
        point=point,
    )
    if as_json:
        common.print_json(best.kind, {**best.as_dict(), "eigenvalues": list(spectrum)})
        return
    common.say(common.describe(best.rule))
    common.say(common.describe_spectrum(spectrum))
    common.say()
    low, high = best.lr_interval
    plateau = f"any lr from {low:.6g} to {high:.6g} is as good" if high - low > 1e-4 * best.lr else ""
    rows: list[tuple[str, common.Cell, str]] = [
        ("best lr", best.lr, plateau),
        ("momentum", best.momentum, "chosen with lr" if over == "momentum" else "as given"),
        ("updates to the tolerance", best.steps, "settled: from there on for ever"),
        ("rate per update", best.rate, "smaller is faster"),
        ("largest stable lr", best.lr_limit, f"the best lr is {best.lr / best.lr_limit:.4g} of it"),
    ]
    common.table("", ("", "value", ""), [(n, common.cell(v), note) for n, v, note in rows if v is not None])
    common.say()
    common.say(f"{best.evaluations:,} settings were tried.")
