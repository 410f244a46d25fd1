"""Axes primitives over arrays: one small style, no pyplot, nothing global; image files that are whole or not there.

Every primitive takes `ax=None`, makes an axes of its own if none is given, and returns it. Arrays are anything that
NumPy reads, tensors included.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from eigenstep.errors import InvalidValue
from eigenstep.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), told apart under every common colour blindness; its yellow is too pale for a line.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
INK, GREY, PALE = "#222222", "#7A7A7A", "#D9D9D9"

_TEXT, _SMALL = 8.0, 7.0  # points, at the printed width of one (3.5 in) or two (7 in) columns
_DPI = 300


def panels(
    columns: int = 1, rows: int = 1, *, width: float = 3.5, height: float = 2.6, sharey: bool = False
) -> "tuple[Figure, list[Axes]]":
    """Return a figure of `width` x `height` inches and its axes, row by row, in the house's style.

    >>> figure, axes = panels(columns=2, width=7.0)
    >>> len(axes)
    2
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [ax for row in figure.subplots(rows, columns, squeeze=False, sharey=sharey) for ax in row]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        for spine in ax.spines.values():
            spine.set(linewidth=0.6, color=INK)
        ax.tick_params(which="both", labelsize=_SMALL, width=0.6, length=2.5, color=INK, labelcolor=INK)
        ax.tick_params(which="minor", length=1.5)
    return figure, axes


def describe(ax: "Axes", x: str, y: str, title: str = "", *, log: Literal["", "x", "y", "xy"] = "") -> "Axes":
    """Label both axes, with units, give the panel a title, and make the named axes logarithmic.

    >>> describe(panels()[1][0], "updates", "loss", log="y").get_yscale()
    'log'
    """
    ax.set_xlabel(x, fontsize=_TEXT, color=INK)
    ax.set_ylabel(y, fontsize=_TEXT, color=INK)
    if title:
        ax.set_title(title, fontsize=_TEXT, color=INK, loc="left")
    if "x" in log:
        ax.set_xscale("log")
    if "y" in log:
        ax.set_yscale("log")
    return ax


def legend(ax: "Axes", where: str = "best", *, columns: int = 1) -> "Axes":
    """Show the labels: at a place inside, as 'upper right', or outside the data: 'right', 'above' or 'below'."""
    places: dict[str, dict[str, Any]] = {
        "right": {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0},
        "above": {"loc": "lower left", "bbox_to_anchor": (0.0, 1.01), "borderaxespad": 0.0},
        "below": {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "borderaxespad": 0.0},
    }
    ax.legend(
        **places.get(where, {"loc": where}),
        **{"fontsize": _SMALL, "frameon": False, "ncols": columns, "handlelength": 1.6, "labelcolor": INK},
    )
    return ax


def curve(
    y: Any,
    x: Any = None,
    ax: "Axes | None" = None,
    *,
    label: str | None = None,
    color: str = BLUE,
    look: Literal["line", "dots", "dashes", "steps"] = "line",
    every: int = 1,
) -> "Axes":
    """Draw y (k,) against x (k,), or against 0, 1, ...: what was predicted as a line, what was measured as dots.

    >>> ax = curve([3.0, 2.0, 1.0], look="dots")
    >>> ax.lines[0].get_xdata().tolist()
    [0, 1, 2]
    """
    ax = _axes(ax)
    ys = _array(y, 1)
    xs = np.arange(len(ys)) if x is None else _array(x, 1)
    if len(xs) != len(ys):
        raise InvalidValue(f"curve: x has {len(xs)} values and y {len(ys)}; give one x for each y")
    looks: dict[str, dict[str, Any]] = {
        "line": {"linewidth": 1.2},
        "dashes": {"linewidth": 0.9, "linestyle": (0, (4, 2))},
        "steps": {"linewidth": 1.2, "drawstyle": "steps-mid"},
        "dots": {"linestyle": "", "marker": "o", "markersize": 2.6, "markeredgewidth": 0},
    }
    ax.plot(xs[::every], ys[::every], color=color, label=label, **looks[look])
    return ax


def stems(x: Any, y: Any, bounds: Any, ax: "Axes | None" = None) -> "Axes":
    """Draw values y (k,) over places x (k,) as stems from zero, each with its bound (k,).

    >>> len(stems([1, 2], [4.0, 3.0], [0.1, 0.2]).collections) > 0
    True
    """
    ax = _axes(ax)
    xs, ys = _array(x, 1), _array(y, 1)
    ax.vlines(xs, 0, ys, color=BLUE, linewidth=1.0, alpha=0.5)
    ax.errorbar(xs, ys, _array(bounds, 1), fmt="o", color=BLUE, markersize=3, capsize=2.5, linewidth=0.9)
    return ax


def ranges(rows: Mapping[str, tuple[float, float, float]], ax: "Axes | None" = None) -> "Axes":
    """Draw numbers one below the other, each (value, low, high) a dot on its interval; what is not finite is left out.

    >>> [text.get_text() for text in ranges({"lr": (0.1, 0.05, 0.2)}).get_yticklabels()]
    ['lr']
    """
    ax = _axes(ax)
    for place, row in enumerate(rows.values()):
        value, low, high = (number if np.isfinite(number) else np.nan for number in row)
        ax.plot([low, high], [place, place], color=BLUE, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
        ax.plot([value], [place], color=BLUE, marker="o", markersize=4)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    return ax


def contours(x: Any, y: Any, loss: Any, ax: "Axes | None" = None, *, levels: int = 14) -> "Axes":
    """Draw contours of a loss (len(y), len(x)) at levels that are evenly spaced in its square root.

    On a quadratic they are evenly spaced ellipses.
    """
    ax = _axes(ax)
    z = _array(loss, 2)
    root = np.sqrt(z - z.min())
    spaced = np.linspace(0, float(root.max()), levels + 1)
    ax.contourf(_array(x, 1), _array(y, 1), root, levels=spaced, cmap="Greys", vmin=-0.3 * spaced[-1], alpha=0.45)
    ax.contour(_array(x, 1), _array(y, 1), root, levels=spaced[1:], colors=GREY, linewidths=0.35, alpha=0.7)
    return ax


def path(points: Any, ax: "Axes | None" = None, *, label: str | None = None, color: str = VERMILION) -> "Axes":
    """Draw a trajectory (k, 2), a dot an update, its start as an open circle.

    >>> len(path([[0.0, 0.0], [1.0, 1.0]]).lines)
    2
    """
    ax = _axes(ax)
    xy = _array(points, 2)
    ax.plot(*xy.T, color=color, linewidth=0.6, marker="o", markersize=1.8, markeredgewidth=0, label=label)
    ax.plot(*xy[0], color=color, marker="o", markersize=5, markerfacecolor="white", markeredgewidth=1.0)
    return ax


def point(place: Sequence[float], ax: "Axes | None" = None, *, label: str | None = None, color: str = INK) -> "Axes":
    """Draw a cross at a place (2,): a minimum, or an optimum."""
    ax = _axes(ax)
    ax.plot(*place, color=color, linestyle="", marker="x", markersize=6, markeredgewidth=1.4, label=label, zorder=5)
    return ax


def line_at(
    value: float, ax: "Axes | None" = None, *, text: str = "", across: Literal["x", "y"] = "x", color: str = GREY
) -> "Axes":
    """Draw a thin line at a value of x, or of y, with a word beside it."""
    ax = _axes(ax)
    (ax.axvline if across == "x" else ax.axhline)(value, color=color, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
    if text and across == "x":
        place = {"xy": (value, 1.0), "xycoords": ("data", "axes fraction"), "xytext": (2, -1), "va": "top"}
    elif text:
        place = {"xy": (1.0, value), "xycoords": ("axes fraction", "data"), "xytext": (-2, 2), "ha": "right"}
    if text:
        ax.annotate(text, textcoords="offset points", fontsize=_SMALL, color=color, **place)  # type: ignore[arg-type]
    return ax


def factors(lr: Any, spectral_radii: Any, labels: Sequence[str], ax: "Axes | None" = None) -> "Axes":
    """Draw |r| (k, n) of n eigenvalues against lr (k,), and the largest of them, R, as a broad band beneath."""
    ax = _axes(ax)
    xs, ys = _array(lr, 1), _array(spectral_radii, 2)
    ax.plot(xs, ys.max(1), color=PALE, linewidth=5, solid_capstyle="round", label="R, the largest")
    if len(labels) != ys.shape[1]:
        raise InvalidValue(f"factors: {ys.shape[1]} eigenvalues have {len(labels)} labels; give one for each")
    for i, (y, label) in enumerate(zip(ys.T, labels, strict=True)):
        look: Any = "line" if i < len(PALETTE) else "dashes"
        curve(y, xs, ax, label=label, color=PALETTE[i % len(PALETTE)], look=look)
    line_at(1.0, ax, across="y")
    return ax


def region(lr: Any, momentum: Any, spectral_radius: Any, ax: "Axes | None" = None) -> "Axes":
    """Draw a stability map: the spectral radius (len(momentum), len(lr)) where it is below 1, and that edge."""
    ax = _axes(ax)
    xs, ys, z = _array(lr, 1), _array(momentum, 1), _array(spectral_radius, 2)
    shown = np.ma.masked_greater_equal(z, 1.0)
    mesh = ax.pcolormesh(xs, ys, shown, cmap="viridis", vmin=0, vmax=1, shading="nearest", rasterized=True)
    ax.contour(xs, ys, z, levels=[1.0], colors=INK, linewidths=1.0)
    bar = ax.figure.colorbar(mesh, ax=ax)
    bar.set_label("factor per update", fontsize=_TEXT, color=INK)
    bar.ax.tick_params(labelsize=_SMALL, width=0.6, length=2.5)
    return ax


def bars(labels: Sequence[str], groups: Mapping[str, Sequence[float | None]], ax: "Axes | None" = None) -> "Axes":
    """Draw horizontal bars, a row per label, a colour per group, each with its count; None is drawn as a dash.

    >>> ax = bars(["a", "b"], {"printed": [420, None], "tuned": [320, 47]})
    >>> len(ax.patches), [text.get_text() for text in ax.texts]
    (3, ['420', '–', '320', '47'])
    """
    ax = _axes(ax)
    thick = 0.8 / len(groups)
    for i, (name, values) in enumerate(groups.items()):
        places = np.arange(len(labels)) + (i - (len(groups) - 1) / 2) * thick
        known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        at, lengths = np.array(known).T.reshape(2, -1)
        ax.barh(at, lengths, height=0.9 * thick, color=PALETTE[i % len(PALETTE)], label=name)
        for place, value in zip(places, values, strict=True):
            spot, text = (0.0, "–") if value is None else (value, f"{value:,.0f}")
            if value is None:  # at the axis, on a logarithmic one too
                ax.annotate(text, (0, place), xycoords=("axes fraction", "data"), **_beside)
            else:
                ax.annotate(text, (spot, place), **_beside)
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(axis="y", length=0, labelsize=_TEXT)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    return ax


_beside: dict[str, Any] = {
    **{"xytext": (2, 0), "textcoords": "offset points", "va": "center", "fontsize": _SMALL, "color": INK}
}


def save(figure: "Figure", folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    """Write `name`.png and `name`.svg into the folder, each whole or not at all, and drop the figure's contents.

    The same figure gives the same bytes. Raises BadFile when the folder is missing or not writable.
    """
    from matplotlib import rc_context

    png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    for target, metadata in ((png, {"Software": None}), (svg, {"Date": None})):
        image = io.BytesIO()
        with rc_context({"svg.hashsalt": "eigenstep"}):
            figure.savefig(image, format=target.suffix[1:], dpi=_DPI, metadata=metadata)
        write_whole(target, image.getvalue())
    figure.clear()
    return png, svg


def _axes(ax: "Axes | None") -> "Axes":
    return panels()[1][0] if ax is None else ax


def _array(values: Any, dimensions: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """The values as a float64 array of that many dimensions. Raises InvalidValue otherwise."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions:
        raise InvalidValue(f"draw: an array of {dimensions} dimensions is needed, not of shape {array.shape}")
    return array
