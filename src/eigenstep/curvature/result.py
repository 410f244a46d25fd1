"""Results of measuring: a Spectrum that also says how certain each value is, in words, tables and pictures."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.plain import plain, restored
from eigenstep.result import Words
from eigenstep.spectrum import WHAT, Spectrum


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
    """A measured Spectrum, values largest first; saved and loaded as one, without vectors, names and shapes.

    - bounds: (k,) half-widths. While only the residual is known (`quick`, or not converged) they are the residual
      norms: some eigenvalue lies within. Once `certified`, never below tol * |value|: hidden neighbours are looked for
      to that resolution, no finer.
    - residuals: (k,) |A v - value v| of the unit vectors, rounding and noise included, a theorem.
    - vectors: (k, n) unit eigenvectors, if asked for.
    - directions: (k, n) unit moves of the parameters that they stand for, P^-1/2 v on a preconditioned operator, else
      the same; `named(i)` gives one as parameter-shaped tensors.
    - names, shapes: the parameters of an Objective, in the order in which the vectors hold them.
    - notes: what the reader should know.
    - converged: residuals within the tolerance and, unless `quick`, confirmed to be the wanted ones.
    - certified: these are the wanted eigenvalues with their multiplicities, by the evidence that
      provenance['identity'] states.
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

    def vector(self, i: int = 0) -> Tensor:
        """Return eigenvector i, a unit vector (n,). Raises InvalidValue without vectors."""
        if self.vectors is None:
            raise _without_vectors()
        return self.vectors[i]

    def direction(self, i: int = 0) -> Tensor:
        """Return direction i, a unit move of the parameters (n,). Raises InvalidValue without vectors."""
        if self.directions is None:
            raise _without_vectors()
        return self.directions[i]

    def named(self, i: int = 0) -> dict[str, Tensor]:
        """Return direction i as a dict of tensors shaped like the parameters. Raises InvalidValue without vectors."""
        if not self.names:
            raise _without_vectors("a model")
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        parts = torch.split(self.direction(i), sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def as_dict(self) -> dict[str, Any]:
        """Return the measurement as plain data, without vectors of the model's size."""
        return {**super().as_dict(), "residuals": plain(self.residuals), "notes": list(self.notes)}

    @classmethod
    def _own(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The residuals and notes of a file; those of a plain spectrum are not known."""
        residuals = restored(Tensor | None, content.get("residuals"), "residuals")
        if residuals is not None and residuals.shape != (len(content["values"]),):
            raise InvalidValue(f"'residuals' must be {len(content['values'])} numbers")
        return {"residuals": residuals, "notes": restored(tuple[str, ...], content.get("notes", []), "notes")}

    def plot(self, ax: Any = None) -> Any:
        """Draw the eigenvalues as stems with their bounds; return the axes."""
        from eigenstep import draw

        title = "certified" if self.certified else "residuals only: not certified"
        label = f"eigenvalue of the {WHAT[self.operator]}"
        return draw.describe(super().plot(ax), "number, largest first", label, title)

    def words(self) -> Words:
        """Return the values with their bounds, and how certain they are."""
        p = self.provenance
        what = f"eigenvalue{'s' * (len(self) > 1)} ({self.covers}) of the {WHAT[self.operator]}"
        table = {"eigenvalue": self.values.tolist(), "± bound": self.bounds.tolist()}
        cost = f"{p.get('products', '?')} products, {p.get('seconds', 0.0):.2g} s"
        return Words(
            f"{super().words().brief}, {self._verdict()}",
            f"{len(self)} {what}, n = {self.dimension}: {self._verdict()}; {cost}",
            table=table,
            notes=self.notes,
        )

    def _verdict(self) -> str:
        p: Mapping[str, Any] = self.provenance
        if p.get("interrupted"):
            return "interrupted: what had converged by then"
        if self.certified:
            return "converged and certified"
        if self.converged:
            return "residuals converged; not certified to be the extreme ones (quick)"
        return "NOT converged: the bounds hold for some eigenvalue, which ones is open"


def _without_vectors(of: str = "an operator") -> InvalidValue:
    return InvalidValue(
        f"Measurement: no eigenvectors of {of} are held; measure with vectors=True (a file holds none), and a model "
        "through its Objective"
    )
