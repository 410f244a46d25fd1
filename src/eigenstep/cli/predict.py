"""`eigenstep predict`: the fate of a rule on given eigenvalues."""

from typing import TYPE_CHECKING

import click

from eigenstep.cli import common, options

if TYPE_CHECKING:
    from eigenstep.theory import Prediction

_SHOWN = 40  # eigenvalues in the table; beyond, the ends only


@click.command(cls=options.NumericCommand)
@options.spectrum_options
@options.rule_options
@options.tolerance_options
@click.option("--origin", type=options.numbers, help="With weight decay: zero parameters minus minimum, as --start.")
@click.option("--within", type=click.IntRange(min=1), help="Give up counting after so many updates.")
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
    origin: float | list[float] | None,
    within: int | None,
    as_json: bool,
) -> None:
    r"""What a rule will do on given eigenvalues of the Hessian.

    \b
    eigenstep predict 1 100 --rule heavy-ball --lr 0.01 --momentum 0.9
    eigenstep predict 1 100 --rule gradient-descent --lr 0.0198 --start 1 --loss 1e-6
    eigenstep predict 5 --rule adam --lr 0.1 --unit 0.5
    """
    from eigenstep.theory import predict

    spectrum = common.spectrum_from(eigenvalues, file)
    prediction = predict(
        common.rule_from(rule, {"lr": lr, "momentum": momentum, **dict(map(common.setting, settings))}),
        spectrum,
        start=common.per_eigenvalue(start, spectrum),
        loss=loss,
        radius=radius,
        origin=common.per_eigenvalue(origin, spectrum),
        unit=common.as_unit(unit),
        point=point,
        within=within,
    )
    if as_json:
        common.print_json("prediction", prediction.as_dict())
    else:
        tolerances = [f"{name} {value:g}" for name, value in (("loss", loss), ("radius", radius)) if value is not None]
        _show(prediction, " and ".join(tolerances), counted=bool(tolerances) or start is not None)


def _show(p: "Prediction", tolerance: str, *, counted: bool) -> None:
    """Print the answers, the table per eigenvalue, and in words what could not be answered."""
    common.say(common.describe(p.rule))
    common.say(common.describe_spectrum(p.spectrum))
    common.say()
    rows: list[tuple[str, common.Cell, str]] = [
        ("largest stable lr", p.max_stable_lr, _against_lr(p)),
        ("stable", p.stable, ""),
        ("rate per update", p.rate, "" if p.slowest is None else f"set by eigenvalue {common.cell(p.slowest)}"),
        ("condition number", p.condition, ""),
        ("largest transient growth", p.peak, "of one eigencomponent, from rest"),
    ]
    if p.frozen_limit not in (None, p.max_stable_lr):
        rows.insert(1, ("  with the unit frozen", p.frozen_limit, ""))
    if counted:
        rows += [
            (f"updates to {tolerance or 'a tolerance'}", p.steps, "first time at or below it"),
            ("  settled", p.settled, "from there on for ever"),
            ("  textbook estimate", p.estimate, "ln(tolerance / start) / ln(rate)"),
        ]
    common.table("", ("", "value", ""), [(n, common.cell(v), note if v is not None else "") for n, v, note in rows])
    common.say()
    _per_eigenvalue(p)
    lines = [*p.notes, *_reasons(p, counted)]
    if lines:
        common.say()
    for line in lines:
        common.say(f"note: {line}")


def _against_lr(p: "Prediction") -> str:
    """The interval of the limit, and where lr stands."""
    if p.max_stable_lr is None or p.max_stable_lr_interval is None:
        return ""
    low, high = p.max_stable_lr_interval
    words = f"between {low:.6g} and {high:.6g}; " if high - low > 1e-6 * low else ""
    lr = float(p.rule.lr)
    return words + (f"lr is {lr / p.max_stable_lr:.3g} of it" if 0 < p.max_stable_lr < float("inf") else "")


def _per_eigenvalue(p: "Prediction") -> None:
    columns = ("eigenvalue", "radius", "oscillates", "time constant")
    rows: list[tuple[common.Cell, ...]] = list(
        zip(
            p.spectrum.eigenvalues.tolist(),
            p.radii.tolist(),
            p.oscillating.tolist(),
            p.time_constants.tolist(),
            strict=True,
        )
    )
    left_out = len(rows) - _SHOWN
    if left_out > 0:
        rows = rows[: _SHOWN // 2] + rows[-_SHOWN // 2 :]
    common.table("", columns, rows)
    if left_out > 0:
        common.say(f"({left_out} eigenvalues in the middle left out here; --json holds all)")


def _reasons(p: "Prediction", counted: bool) -> list[str]:
    """Why an answer is missing, for those that were asked for; answers with one reason share a line."""
    unasked = {"frozen_limit"} if counted else {"frozen_limit", "steps", "settled", "estimate"}
    found: dict[str, list[str]] = {}
    for name, reason in p.reasons.items():
        if name not in unasked:
            found.setdefault(reason.rstrip("."), []).append(name.replace("_", " "))
    return [f"{', '.join(names)}: {reason}." for reason, names in found.items()]
