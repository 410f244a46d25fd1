"""A run's records as a figure: loss, sharpness and its limit, the stability ratio, lr, on one axis of updates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eigenstep import draw
from eigenstep.lines import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_run(records: Sequence[Record], alarms: Sequence[int] = (), ax: "Axes | None" = None) -> "list[Axes] | Axes":
    """Return four panels over the same updates, alarms marked; with `ax`, the stability ratio alone drawn there."""
    measured = [r for r in records if r.get("stability_ratio") is not None]
    if ax is not None:
        return _ratio(ax, measured)
    _, axes = draw.panels(rows=4, width=5.2, height=6.4)
    loss, sharp, ratio, lr = axes
    x, y = _column(records, "loss")
    draw.curve(y, x, loss)
    draw.describe(loss, "", "loss", "Loss of each batch", log="y" if len(y) and (y > 0).all() else "")
    _sharpness(sharp, measured)
    _ratio(ratio, measured)
    x, y = _column(records, "lr")
    draw.curve(y, x, lr)
    x, y = _column(measured, "max_stable_lr")
    draw.curve(y, x, lr, label="largest stable", color=draw.VERMILION, look="dots")
    draw.legend(lr)
    draw.describe(lr, "update", "lr", "Learning rate", log="y" if all(r["lr"] > 0 for r in records) else "")
    for panel in axes:
        panel.set_xlim(0, max((r["step"] for r in records), default=1))
        for alarm in alarms:
            draw.line_at(alarm, panel, color=draw.VERMILION)
    for panel in axes:
        panel.yaxis.set_tick_params(which="minor", labelleft=False)
    for panel in axes[:-1]:
        panel.tick_params(labelbottom=False)
        panel.set_xlabel("")
    return axes


def _sharpness(ax: "Axes", measured: Sequence[Record]) -> None:
    """The curvature that the optimizer sees, and the value at which its present lr would be unstable."""
    scaled = any(r.get("preconditioned_sharpness") is not None for r in measured)
    name = "preconditioned_sharpness" if scaled else "sharpness"
    shown = [r for r in measured if r.get(name) is not None and r["stability_ratio"]]
    x, y = _column(shown, name)
    draw.curve(y, x, ax, look="line", label="measured")
    draw.curve(y, x, ax, look="dots")
    draw.curve(
        [r[name] / r["stability_ratio"] for r in shown], x, ax, look="dashes", color=draw.VERMILION, label="limit"
    )
    draw.legend(ax)
    title = "Sharpness in the optimizer's unit" if scaled else "Sharpness"
    draw.describe(ax, "", "eigenvalue", title, log="y")


def _ratio(ax: "Axes", measured: Sequence[Record]) -> "Axes":
    x, y = _column(measured, "stability_ratio")
    draw.curve(y, x, ax)
    draw.curve(y, x, ax, look="dots")
    draw.line_at(1.0, ax, text="the edge", across="y", color=draw.INK)
    return draw.describe(ax, "update", "ratio", "Stability ratio", log="y" if len(y) and (y > 0).all() else "")


def _column(records: Sequence[Record], name: str) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Steps and finite values of a field."""
    pairs = [(r["step"], r[name]) for r in records if r.get(name) is not None and np.isfinite(r[name])]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)
