"""`eigenstep measure`: the top eigenvalues of your own model's curvature, with bounds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenstep.cli import common, options

if TYPE_CHECKING:
    from eigenstep.curvature import Density, Layers, Measurement

_TOP = 5  # eigenvalues, unless asked otherwise


@click.command()
@click.argument("target", metavar="FILE.py:FUNCTION")
@click.option("--top", type=int, help="How many eigenvalues [default: 5, or all where there are fewer].")
@click.option(
    "--which",
    type=click.Choice(["largest", "smallest", "ends", "magnitude"]),
    default="largest",
    show_default=True,
    help="Which; largest means by value.",
)
@click.option("--tol", type=options.number, default=1e-2, show_default=True, help="Relative residual to reach.")
@click.option("--quick", is_flag=True, help="Residuals only: do not confirm that these are the largest ones.")
@click.option("--preconditioned", is_flag=True, help="As the optimizer that FUNCTION returns sees it: P^-1/2 H P^-1/2.")
@click.option("--layers", is_flag=True, help="Each layer's own block as well.")
@click.option("--density", is_flag=True, help="The density of all eigenvalues, and their sum, as well.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random start.")
@click.option("--checkpoint", type=options.OutFile(), help="A file from which a killed measurement goes on.")
@options.out_option("results/measure")
@options.json_option
def command(
    target: str,
    top: int | None,
    which: Any,
    tol: float,
    quick: bool,
    preconditioned: bool,
    layers: bool,
    density: bool,
    seed: int,
    checkpoint: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    r"""The top eigenvalues of your model's curvature, certified, from FUNCTION of FILE.py.

    FUNCTION takes nothing and returns an eigenstep.Objective, or an Objective and an optimizer.

    \b
    eigenstep measure examples/digits_mlp.py:objective
    eigenstep measure train.py:objective --preconditioned --density
    """
    from eigenstep import curvature
    from eigenstep.cli import target as user
    from eigenstep.errors import InvalidValue

    folder = common.folder(out)
    objective, optimizer = user.load(target)[:2]
    if preconditioned and optimizer is None:
        raise InvalidValue(f"--preconditioned needs an optimizer; let {target} return (Objective, optimizer)")
    settings: dict[str, Any] = {"seed": seed, "optimizer": optimizer if preconditioned else None}
    certainty: dict[str, Any] = {"which": which, "tol": tol, "quick": quick, **settings}
    if top is None:
        top = min(_TOP, max(objective.size // (2 if which == "ends" else 1), 1))
    path = None if checkpoint is None else str(checkpoint)
    shown: dict[str, Any] = {"progress": True}
    measured = curvature.measure(objective, top, vectors=True, checkpoint=path, **certainty, **shown)
    blocks = curvature.layers(objective, 1, **certainty, **shown) if layers else curvature.Layers()
    spread = curvature.density(objective, **settings, **shown) if density else None
    total = curvature.trace(objective, **settings, **shown) if density else None
    shares = curvature.shares(objective, measured.direction())
    files = _save(folder, measured, blocks, spread)
    if as_json:
        content = {**measured.as_dict(), "shares": shares, "files": files}
        content |= blocks.as_dict()
        content["trace"] = None if total is None else total.as_dict()
        common.print_json("measurement", content)
        return
    common.say(str(measured))
    common.say()
    largest = sorted(shares.items(), key=lambda item: -item[1])[:8]
    rows: list[tuple[str, common.Cell]] = [(name, f"{share:.1%}") for name, share in largest]
    common.table("Where the first direction lives", ("parameter", "share"), rows)
    if blocks:
        common.say()
        common.table("Each layer's own block", ("layer", "eigenvalue", "bound"), [_row(*b) for b in blocks.items()])
    if spread is not None and total is not None:
        common.say()
        common.say(str(spread))
        common.say(f"trace {total.value:.6g}, {total.level:.0%} interval {total.low:.6g} to {total.high:.6g}")
    common.say()
    common.say(f"in {folder}: {', '.join(files)}")


def _row(name: str, block: "Measurement") -> tuple[common.Cell, ...]:
    return name or "(model)", float(block.values[0]), float(block.bounds[0])


def _save(folder: Path, measured: "Measurement", blocks: "Layers", spread: "Density | None") -> list[str]:
    """Write the spectrum, the density and the figures; return the files' names."""
    from eigenstep import draw

    measured.save(folder / "spectrum.json")
    files = ["spectrum.json"]
    if spread is not None:
        spread.save(folder / "density.json")
        files.append("density.json")
    number = 1 + bool(blocks) + (spread is not None)
    figure, panels = draw.panels(number, width=3.5 * number)
    axes = iter(panels)
    measured.plot(next(axes))
    if spread is not None:
        spread.plot(next(axes), top=measured)
    if blocks:
        blocks.plot(next(axes))
    return [*files, *(path.name for path in draw.save(figure, folder, "spectrum"))]
