"""The article's figures and those that it lacks: each drawn from the outcomes of its runs, or from runs of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eigenstep import draw
from eigenstep.article.experiments import EXPERIMENTS, PASSES, TOLERANCE, TURN, Outcome, loop
from eigenstep.article.tuned import CONTENDERS, Tuned, settled_counts
from eigenstep.article.wells import REACH, well_shares
from eigenstep.problems import DoubleWell, Quadratic, article
from eigenstep.rules import GradientDescent
from eigenstep.simulation import simulate
from eigenstep.theory import radii

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = dict(zip((e.name for e in EXPERIMENTS), (draw.INK, draw.BLUE, draw.VERMILION, draw.GREEN), strict=True))


@dataclass(frozen=True)
class Results:
    """What the figures are drawn from: the outcomes of the four runs, and every contender tuned alike."""

    outcomes: tuple[Outcome, ...]
    tuned: tuple[Tuned, ...]

    def __getitem__(self, name: str) -> Outcome:
        """The outcome of the experiment of that name."""
        return next(o for o in self.outcomes if o.experiment.name == name)


def overall_convergence(results: Results) -> "Figure":
    """|r| of eigenvalues 1 and 5 against lr, the larger of them R, and its lowest point."""
    figure, (ax,) = draw.panels(width=3.8, height=2.7)
    lr = torch.linspace(0, 0.46, 461, dtype=torch.float64)
    values = torch.tensor([1.0, 5.0], dtype=torch.float64)
    draw.factors(lr, radii(GradientDescent(lr=lr), values), ["|r|, λ = 1", "|r|, λ = 5"], ax)
    draw.line_at(1 / 3, ax)
    draw.line_at(2 / 5, ax)
    draw.point((1 / 3, 2 / 3), ax, color=draw.INK)
    for text, place, shift, align in (
        ("η* = 1/3, R = 2/3", (1 / 3, 2 / 3), (-4, 27), "right"),
        (_math("η_max = 2/5"), (2 / 5, 0.0), (3, 4), "left"),
    ):
        ax.annotate(text, place, shift, textcoords="offset points", ha=align, fontsize=7, color=draw.INK)
    ax.set(xlim=(0, 0.48), ylim=(0, 1.35))
    draw.describe(ax, "learning rate η", "factor per update")
    draw.legend(ax, "above", columns=3)
    return figure


def trajectory(outcome: Outcome) -> "Figure":
    """One run over the contours of the loss."""
    figure, (ax,) = draw.panels(width=3.5, height=2.7)
    what = f"left the box at pass {outcome.article_count}" if outcome.diverged else f"{outcome.article_count} passes"
    _trajectory(outcome.points, article(), ax)
    draw.describe(ax, "w₁ (λ = 1)", "w₂ (λ = 100)", _math(f"{outcome.experiment.title}: {what}"))
    return figure


def losses(results: Results) -> "Figure":
    """The losses measured, and those predicted from the two eigenvalues over them."""
    figure, (ax,) = draw.panels(width=5.2, height=3.0)
    label = "predicted"
    for o in results.outcomes:
        draw.curve(o.losses, ax=ax, label=_math(o.experiment.title), color=_COLORS[o.experiment.name])
        ax.lines[-1].set(linewidth=2.4, alpha=0.55, solid_capstyle="round")
    for o in results.outcomes:
        if o.errors is not None:
            draw.curve(_loss(o.errors), ax=ax, label=label, color=draw.INK, look="dashes")
            ax.lines[-1].set_linewidth(0.7)
            label = ""
    ax.set_xlim(-10, 500)
    draw.line_at(TOLERANCE, ax, across="y", text="tolerance")
    draw.describe(ax, "updates", "loss", log="y")
    draw.legend(ax, "right")
    return figure


def eigencomponents(results: Results) -> "Figure":
    """The error along both eigenvectors, measured as dots, predicted as lines."""
    figure, axes = draw.panels(2, 2, width=7.0, height=4.6)
    for o, ax in zip(results.outcomes, axes, strict=True):
        measured = article().components(o.points).abs()
        every = max(1, len(measured) // 70) if o.errors is not None else 1
        for i, (value, color) in enumerate((("1", draw.BLUE), ("100", draw.VERMILION))):
            if o.errors is not None:
                draw.curve(_seen(o.errors[:, i].abs()), ax=ax, color=color, label=f"λ = {value}, predicted")
            seen = _seen(measured[:, i])
            draw.curve(seen, ax=ax, color=color, label=f"λ = {value}, measured", look="dots", every=every)
            ax.lines[-1].set_markersize(2.2)
        predicted = "" if o.errors is not None else " (its unit moves: not predicted)"
        draw.describe(ax, "updates", "|error| along the eigenvector", _math(o.experiment.title) + predicted, log="y")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    return figure


def rotated(results: Results) -> "Figure":
    """Adam on the problem turned by 45 degrees, and the losses of all three methods there and before."""
    figure, axes = draw.panels(2, width=7.0, height=2.9)
    turned = article().rotated(angle=TURN)
    for o in results.outcomes[1:]:
        run = loop(o.experiment.rule, turned, keep=("losses", "points"))
        losses = run.kept("losses")
        color, name = _COLORS[o.experiment.name], o.experiment.title
        draw.curve(o.losses, torch.arange(1, len(o.losses) + 1), axes[1], color=color, look="dashes")
        label = f"{name}: {o.article_count}, at 45° {o.rotated:,}"
        draw.curve(losses, torch.arange(1, len(losses) + 1), axes[1], color=color, label=label)
        if o.experiment.name == "adam":
            _trajectory(run.kept("points"), turned, axes[0], color=color, square=True)
            draw.describe(axes[0], "w₁", "w₂", f"Adam, eigenvectors at 45°: {o.rotated:,} passes")
    draw.line_at(TOLERANCE, axes[1], across="y", text="tolerance")
    draw.describe(axes[1], "pass", "loss", "line: eigenvectors at 45°, dashed: along the coordinates", log="xy")
    axes[1].set_ylim(1e-11, 100)
    draw.legend(axes[1], "lower left")
    return figure


def settled_comparison(results: Results) -> "Figure":
    """The counts as printed, as they stay, and at 45 degrees; and every method tuned for the same count."""
    figure, axes = draw.panels(2, width=7.0, height=2.9)
    outcomes = results.outcomes[1:]
    groups = {
        "loss first at 1e-6": [_less(o.article_count) for o in outcomes],
        "stays below": [_more(o.last_above) for o in outcomes],
        "first, at 45°": [_less(o.rotated) for o in outcomes],
    }
    draw.bars([o.experiment.title.replace(", ", ",\n") for o in outcomes], groups, axes[0])
    draw.describe(axes[0], "updates", "", f"the article's settings (Adam: within {PASSES:,})")
    draw.legend(axes[0], "below", columns=3)
    tuned = results.tuned
    draw.bars([t.name for t in tuned], {"": [t.measured for t in tuned]}, axes[1])
    draw.describe(axes[1], "updates until it stays below", "", "lr tuned alike, for this count")
    return figure


def tuned_alike(results: Results) -> "Figure":
    """The settled count against lr, each optimiser at its own."""
    figure, (ax,) = draw.panels(width=5.6, height=3.1)
    chosen = [(c, t) for c, t in zip(CONTENDERS, results.tuned, strict=True) if not c.fixed]
    for (contender, best), color in zip(chosen, draw.PALETTE, strict=False):
        lr = torch.logspace(-3, -1, 401, dtype=torch.float64)
        draw.curve(settled_counts(contender.rule, lr, 2000), lr, ax, color=color, label=f"{best.name}: {best.measured}")
        ax.lines[-1].set_linewidth(0.9)
        if best.measured is not None:
            ax.plot(best.lr, best.measured, "o", color=color, markersize=4.5, markeredgecolor="white")
    draw.describe(
        ax,
        "learning rate η",
        "updates until the loss stays below 1e-6",
        "dot: the best η; curves: within 2,000 updates",
        log="xy",
    )
    ax.set_yticks([50, 100, 200, 500, 1000, 2000], ["50", "100", "200", "500", "1,000", "2,000"])
    ax.set_yticks([], minor=True)
    draw.legend(ax, "right")
    return figure


def double_well(results: Results) -> "Figure":
    """Which well gradient descent ends in: the lr selects between wells of different sharpness."""
    figure, (left, middle, right) = draw.panels(3, width=7.2, height=2.6)
    well = DoubleWell(flat=4.0, sharp=100.0)
    x = torch.linspace(-2.2, 1.6, 800, dtype=torch.float64)
    draw.curve(well.loss(x.unsqueeze(-1)), x, left, color=draw.INK)
    for place, value, color, align in ((-1.0, 4, draw.BLUE, "center"), (1.0, 100, draw.VERMILION, "center")):
        draw.point((place, 0.0), left, color=color)
        left.annotate(f"λ = {value}:\nη < {2 / value:g}", (place, -0.3), ha=align, va="top", fontsize=7, color=color)
    left.set_ylim(-2.2, 6)
    draw.describe(left, "w", "loss", "two wells of equal depth")
    for eta, color in ((0.018, draw.VERMILION), (0.022, draw.BLUE)):
        points = simulate(GradientDescent(lr=eta), well, steps=60, keep=("points",)).kept("points")
        draw.curve(points.squeeze(-1), ax=middle, color=color, label=f"η = {eta:g}")
    for place, word in ((-1.0, "flat"), (1.0, "sharp")):
        draw.line_at(place, middle, across="y", text=word)
    middle.set_xlim(-3, 78)
    draw.describe(middle, "updates", "w", "from w = 1.5")
    draw.legend(middle, "center right")
    lr = torch.logspace(-2.3, -0.2, 240, dtype=torch.float64)
    shares = well_shares(well, lr, starts=100, updates=1500)
    draw.curve(100 * shares.sharp, lr, right, color=draw.VERMILION, label="sharp well")
    draw.curve(100 * shares.flat, lr, right, color=draw.BLUE, label="flat well")
    draw.line_at(2 / 100, right, text="2 / 100")
    draw.line_at(2 / 4, right, text="2 / 4")
    right.set_ylim(-3, 112)
    draw.describe(right, "learning rate η", "starts that settle there, %", f"from |w| < {REACH:g}", log="x")
    draw.legend(right, "center")
    return figure


FIGURES: dict[str, Callable[[Results], "Figure"]] = {
    "overall-convergence": overall_convergence,
    **{e.name: lambda results, name=e.name: trajectory(results[name]) for e in EXPERIMENTS},  # type: ignore[misc]
    "losses": losses,
    "eigencomponents": eigencomponents,
    "rotated": rotated,
    "settled-counts": settled_comparison,
    "tuned-alike": tuned_alike,
    "double-well": double_well,
}


def _trajectory(
    points: Tensor, problem: Quadratic, ax: "Axes", *, color: str = draw.VERMILION, square: bool = False
) -> None:
    """A path (k, 2) over the contours of the problem, with room around it, and the minimum; square: to scale."""
    seen = torch.cat([points, problem.minima])
    middle, half = (seen.amax(0) + seen.amin(0)) / 2, 0.62 * (seen.amax(0) - seen.amin(0))
    if square:
        half = half.amax().expand(2)
        ax.set_aspect("equal")
    low, high = middle - half, middle + half
    xs, ys = (torch.linspace(float(a), float(b), 160, dtype=torch.float64) for a, b in zip(low, high, strict=True))
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)
    draw.contours(xs, ys, problem.loss(grid), ax)
    draw.path(points, ax, color=color)
    draw.point(problem.minimum.tolist(), ax)


def _loss(errors: Tensor) -> Tensor:
    """The losses (k,) of eigencomponents (k, 2)."""
    return errors.square() @ article().eigenvalues / 2


def _seen(errors: Tensor) -> Tensor:
    """Errors that a logarithmic axis can show; others, which rounding put on the minimum, as gaps."""
    return torch.where(errors > 1e-12, errors, torch.nan)


def _math(text: str) -> str:
    """The text with its subscripts set as such."""
    for end in ("max", "min"):
        text = text.replace(f"_{end}", f"$_\\mathrm{{{end}}}$")
    return text


def _less(count: int | None) -> int | None:
    """Updates from an article count."""
    return None if count is None else count - 1


def _more(last: int | None) -> int | None:
    """Updates from which the loss stays below, from the last one above."""
    return None if last is None else last + 1
