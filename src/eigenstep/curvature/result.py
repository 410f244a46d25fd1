"""Results of measuring: a Spectrum that also says how certain each value is, in words, tables and pictures."""

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eigenstep import draw
from eigenstep.errors import InvalidValue
from eigenstep.spectrum import Spectrum


class Clock:
    """Estimates the seconds left from how fast the residual has fallen."""

    def __init__(self, tol: float, confirm: int) -> None:
        self.tol, self.confirm, self.began = tol, confirm, time.perf_counter()

    def judge(self, history: list[tuple[int, float]], phase: str, steady: int) -> dict[str, Any]:
        """Return how things stand after the last product, as fields of a Progress."""
        products, residual = history[-1]
        seconds = time.perf_counter() - self.began
        each = seconds / max(len(history), 1)
        left: float | None = None
        if phase == "converge" and len(history) > 3:
            earlier = history[max(0, len(history) - 8)]
            fall = (earlier[1] / max(residual, 1e-300)) ** (1 / max(products - earlier[0], 1))
            if fall > 1.001:
                left = each * (
                    torch.log(torch.tensor(max(residual / self.tol, 1.0))).item() / torch.log(torch.tensor(fall)).item()
                    + self.confirm
                )
        elif phase != "converge":
            left = each * max(self.confirm - steady, 0)
        return {"products": products, "residual": residual, "phase": phase, "left": left}


@dataclass(frozen=True, eq=False, repr=False)
class Measurement(Spectrum):
    """A measured Spectrum, values largest first; saved and loaded as one.

    bounds: half-widths. While only the residual is known (`quick`, or not converged) they are the residual norms: some
    eigenvalue lies within. Once `certified`, never below tol * |value|: hidden neighbours are looked for to that
    resolution, no finer. residuals: (k,) |A v - value v| of the unit vectors, rounding and noise included, a theorem.
    converged: residuals within the tolerance and, unless `quick`, confirmed to be the wanted ones. certified: these
    are the wanted eigenvalues with their multiplicities, by the evidence that provenance['identity'] states.
    vectors: (k, n) unit eigenvectors, if asked for. directions: the unit moves of the parameters that they stand for,
    P^-1/2 v on a preconditioned operator, else the same; `named(i)` gives one as parameter-shaped tensors. notes: what
    the reader should know.
    """

    residuals: Tensor | None = None
    vectors: Tensor | None = None
    directions: Tensor | None = None
    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def converged(self) -> bool:
        """Whether all that was asked for is met."""
        return bool(self.provenance.get("converged", False))

    @property
    def certified(self) -> bool:
        """Whether the values were confirmed to be the extreme ones, beyond their residuals."""
        return bool(self.provenance.get("certified", False))

    def named(self, i: int = 0) -> dict[str, Tensor]:
        """Return direction i as a dict of tensors shaped like the parameters. Raises InvalidValue without vectors."""
        if self.directions is None or not self.names:
            raise InvalidValue(
                "Measurement: no eigenvectors of a model are held; measure an Objective with vectors=True"
            )
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        parts = torch.split(self.directions[i], sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def plot(self, ax: Any = None) -> Any:
        """Draw the eigenvalues as stems with their bounds; return the axes."""
        ax = draw.panels()[1][0] if ax is None else ax
        stems(ax, range(1, len(self) + 1), self)
        draw.line_at(0.0, ax, across="y")
        ax.set_xticks(range(1, len(self) + 1) if len(self) <= 12 else range(1, len(self) + 1, len(self) // 6))
        title = "certified" if self.certified else "residuals only: not certified"
        return draw.describe(ax, "number, largest first", f"eigenvalue of the {WHAT[self.operator]}", title)

    def __repr__(self) -> str:
        """A table of values and bounds, and how certain they are."""
        assert self.bounds is not None  # settled in Spectrum
        p = self.provenance
        what = f"eigenvalue{'s' * (len(self) > 1)} ({self.covers}) of the {WHAT[self.operator]}"
        head = f"{len(self)} {what}, n = {self.dimension}"
        rows = [f"  {v: .6g} ± {b:.2g}" for v, b in zip(self.values.tolist(), self.bounds.tolist(), strict=True)]
        tail = f"{self._verdict()}; {p.get('products', '?')} products, {p.get('seconds', 0.0):.2g} s"
        return "\n".join([head, *rows, tail, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        assert self.bounds is not None  # settled in Spectrum
        pairs = zip(self.values.tolist(), self.bounds.tolist(), strict=True)
        rows = "".join(f"<tr><td>{v:.6g}</td><td>± {b:.2g}</td></tr>" for v, b in pairs)
        notes = "".join(f"<br>{html.escape(note)}" for note in self.notes)
        head = f"<tr><th>eigenvalue of the {WHAT[self.operator]}</th><th>bound</th></tr>"
        return f"<table>{head}{rows}</table><small>{html.escape(self._verdict())}{notes}</small>"

    def _verdict(self) -> str:
        p: Mapping[str, Any] = self.provenance
        if p.get("interrupted"):
            return "interrupted: what had converged by then"
        if self.certified:
            return "converged and certified"
        if self.converged:
            return "residuals converged; not certified to be the extreme ones (quick)"
        return "NOT converged: the bounds hold for some eigenvalue, which ones is open"


WHAT = {"hessian": "Hessian", "ggn": "Gauss-Newton matrix", "preconditioned": "preconditioned Hessian"}


def stems(ax: Any, places: Sequence[float], result: Measurement) -> None:
    """Draw a measurement's values over given places of x, each with its bound."""
    assert result.bounds is not None  # settled in Spectrum
    values = result.values.tolist()
    ax.vlines(places, 0, values, color=draw.BLUE, linewidth=1.0, alpha=0.5)
    ax.errorbar(
        places, values, result.bounds.tolist(), fmt="o", color=draw.BLUE, markersize=3, capsize=2.5, linewidth=0.9
    )
