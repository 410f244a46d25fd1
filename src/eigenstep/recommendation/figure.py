"""The pictures of a recommendation: the loss after each rehearsal against lr, and the lr over the run."""

import math
from typing import TYPE_CHECKING

from eigenstep import draw
from eigenstep.recommendation.parts import Candidate
from eigenstep.recommendation.result import Recommendation
from eigenstep.rehearsal.schedule import updates

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def recommendation_plot(r: Recommendation, ax: "Axes | None" = None) -> "Axes":
    """Draw the probe's loss after each rehearsal against lr, the interval, the chosen lr and the limits."""
    ax = draw.panels()[1][0] if ax is None else ax
    stages = sorted({p for c in r.candidates for p in c.points if p and p in (c.points[-1], c.steps)})
    shown = [s for s in stages if sum(s in c.points and not c.diverged for c in r.candidates) > 1][-4:]
    ax.axhline(r.start, color=draw.GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    for stage, color in zip(shown, draw.PALETTE, strict=False):
        pairs = sorted(
            (c.lr, c.losses[c.points.index(stage)])
            for c in r.candidates
            if stage in c.points and math.isfinite(c.losses[c.points.index(stage)])
        )
        ax.plot(*zip(*pairs, strict=True), color=color, marker="o", markersize=3, linewidth=1.0)
        ax.plot([], [], color=color, marker="o", markersize=3, linewidth=1.0, label=f"after {updates(stage)}")
    left = [c.lr for c in r.candidates if c.diverged or c.losses[-1] > r.start]
    if left:
        ax.plot(left, [r.start] * len(left), "x", color=draw.VERMILION, markersize=5, label="loss rose")
    if r.interval is not None and r.lr is not None:
        ax.axvspan(*r.interval, color=draw.PALE, alpha=0.6, linewidth=0)
        draw.line_at(r.lr, ax, text=f"lr {r.lr:.3g}", color=draw.INK)
    if r.limit is not None and math.isfinite(r.limit.max_stable_lr):
        draw.line_at(r.limit.max_stable_lr, ax, color=draw.PURPLE)
        ax.plot([], [], color=draw.PURPLE, linestyle=(0, (1, 1.5)), linewidth=0.8, label="limit at the start")
    lr, loss = "peak lr" if r.asked.falls else "lr", "validation loss" if r.asked.validation else "loss on the probe"
    title = r.asked.schedule_words if r.asked.falls else ""
    draw.describe(ax, lr, loss, title, log="xy" if _positive(r.candidates) else "x")
    if ax.get_legend_handles_labels()[0]:
        draw.legend(ax, "below", columns=2)
    return ax


def schedule_plot(r: Recommendation, lr: float, ax: "Axes") -> "Axes":
    """Draw the lr over the run at the recommended peak."""
    shape = r.asked.shape
    updates = [i * (r.horizon - 1) / max(len(shape) - 1, 1) for i in range(len(shape))]
    ax.plot(updates, [lr * factor for factor in shape], color=draw.BLUE, linewidth=1.2)
    draw.describe(ax, "update", "lr", r.asked.schedule_words)
    return ax


def _positive(candidates: tuple[Candidate, ...]) -> bool:
    return all(v > 0 for c in candidates for v in c.losses if math.isfinite(v))
