"""One figure a problem: how an error grows per update on either side of the predicted limit."""

from typing import TYPE_CHECKING

import torch

from eigenstep.theory import radii
from eigenstep.verify.check import LimitCheck, ProblemCheck

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4


def limits_figure(check: ProblemCheck) -> "Figure":
    """Draw a panel for each checked limit: the predicted factor per update as a line, measured ones as dots."""
    from eigenstep import draw

    number = len(check.limits) + 1
    rows = -(-number // _COLUMNS)
    figure, axes = draw.panels(_COLUMNS, rows, width=7.2, height=1.9 * rows + 0.4)
    for i, (limit, ax) in enumerate(zip(check.limits, axes, strict=False)):
        _factor(limit, ax)
        draw.describe(ax, "lr / predicted limit", "factor per update" if i % _COLUMNS == 0 else "", _title(limit))
    _orbit(check, axes[number - 1])
    for ax in axes[number:]:
        ax.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=7)
    s = check.spectrum
    figure.suptitle(
        f"{check.problem.name}: {check.problem.dimension} parameters, sharpness {s.largest:.4g}, "
        f"condition number {s.condition:.4g}",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    return figure


def _title(limit: LimitCheck) -> str:
    kind = "" if limit.kind == "linear" else f", {limit.kind}"
    return f"{limit.rule.name}{kind}: {limit.difference:+.2%}"


def _factor(limit: LimitCheck, ax: "Axes") -> None:
    """The spectral radius along the sharpest direction, the growth measured, and the edge found by bisecting."""
    from eigenstep import draw

    ratio = limit.factors.lr / limit.predicted
    fine = torch.linspace(float(ratio[0]), float(ratio[-1]), 301, dtype=torch.float64)
    sharpness = torch.tensor([limit.sharpness], dtype=torch.float64)
    draw.line_at(1.0, ax)
    draw.line_at(1.0, ax, across="y")
    predicted = radii(limit.rule.replace(lr=fine * limit.predicted), sharpness).squeeze(-1)
    draw.curve(predicted, fine, ax, color=draw.GREY, label="factor per update, predicted")
    draw.curve(limit.factors.measured, ratio, ax, label="measured on the loss", look="dots")
    edge = (limit.measured.lr / limit.predicted, 1.0)
    draw.point(edge, ax, color=draw.VERMILION, label="edge, found by bisecting")


def _orbit(check: ProblemCheck, ax: "Axes") -> None:
    """How far plain Adam stays from the minimum, coordinate by coordinate."""
    from eigenstep import draw

    orbit = check.orbit
    ratios = (orbit.widths / orbit.predicted).tolist()
    ax.hist(ratios, bins=40, range=(0.0, max(1.25, *ratios)), color=draw.BLUE)
    draw.line_at(1.0, ax)
    draw.describe(ax, "distance kept / (lr / 38)", "coordinates", f"adam, eps 1e-8: {orbit.difference:+.1%}")
