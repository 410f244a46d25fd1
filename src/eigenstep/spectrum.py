"""Spectrum, where measuring ends and predicting begins."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.files import wrong_field
from eigenstep.plain import plain
from eigenstep.result import Result, Words

Covers = Literal["all", "top", "bottom", "ends", "density"]
Operator = Literal["hessian", "ggn", "preconditioned"]

_FIELDS: dict[str, Any] = {
    **{"values": [float], "bounds": [float], "weights": [float], "dimension": int, "covers": str, "operator": str},
    **{"preconditioner": (dict, None), "provenance": dict},
}
_PROVENANCE: dict[str, Any] = {  # of those that are there
    **{"converged": bool, "certified": bool, "interrupted": bool, "products": int, "seconds": float},
    **{"probes": int, "steps": int, "notes": [str]},
}


_FILLED: Any = None  # a field that __post_init__ fills in where it is not given
WHAT = {"hessian": "Hessian", "ggn": "Gauss-Newton matrix", "preconditioned": "preconditioned Hessian"}


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    """Eigenvalues of a curvature operator, how well each is known, and which part of the whole they cover.

    - values: (n,) float64, in the order given, never re-sorted.
    - bounds: (n,) half-widths; some eigenvalue lies within value +- bound.
    - weights: (n,) multiplicities, or for a density the quadrature weights (sum 1).
    - dimension: the operator's.
    - covers: 'all', 'top' (the largest by value, counted with multiplicity), 'bottom', 'ends' (both) or 'density'.
    - operator: 'hessian', 'ggn' or 'preconditioned', P^-1/2 (H + wI) P^-1/2.
    - preconditioner: of that one, the rule, t and whether coupled decay is included.
    - provenance: how the numbers were obtained, and whether they converged.

    Raises InvalidValue for empty, non-finite or misshapen contents.

    >>> Spectrum.from_eigenvalues([1.0, 100.0]).condition
    100.0
    """

    kind: ClassVar[str] = "spectrum"

    values: Tensor
    bounds: Tensor = _FILLED
    weights: Tensor = _FILLED
    dimension: int = _FILLED
    covers: Covers = "all"
    operator: Operator = "hessian"
    preconditioner: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the contents and fill in exact bounds, single multiplicities and the dimension."""
        values = _vector("values", self.values)
        if values.numel() == 0:
            raise InvalidValue("Spectrum: no eigenvalues were given; at least one is needed")
        bounds = torch.zeros_like(values) if self.bounds is None else _vector("bounds", self.bounds)
        weights = torch.ones_like(values) if self.weights is None else _vector("weights", self.weights)
        if bounds.shape != values.shape or weights.shape != values.shape:
            raise InvalidValue("Spectrum: bounds and weights need one entry per eigenvalue")
        if bool((bounds < 0).any()) or bool((weights < 0).any()):
            raise InvalidValue("Spectrum: bounds and weights must not be negative")
        if self.covers not in get_args(Covers) or self.operator not in get_args(Operator):
            valid = f"one of {get_args(Covers)}, {get_args(Operator)}"
            raise InvalidValue(f"Spectrum: covers={self.covers!r}, operator={self.operator!r}: {valid}")
        if self.dimension is None and self.covers != "all":
            raise InvalidValue("Spectrum: a partial spectrum needs the dimension of its operator")
        dimension = round(float(weights.sum())) if self.dimension is None else int(self.dimension)
        if dimension < 1:
            raise InvalidValue(f"Spectrum: dimension={dimension} must be at least 1")
        settled = {
            "values": values,
            "bounds": bounds,
            "weights": weights,
            "dimension": dimension,
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_eigenvalues(cls, values: Any, **fields: Any) -> Self:
        """Return a spectrum of the given eigenvalues, by default all of them and exact.

        >>> Spectrum.from_eigenvalues([3.0, 1.0]).eigenvalues.tolist()
        [3.0, 1.0]
        """
        return cls(values=values, **fields)

    @classmethod
    def from_matrix(cls, matrix: Any, **fields: Any) -> Self:
        """Return all eigenvalues of a symmetric (n, n) matrix, largest first.

        The bounds are the backward error of a symmetric eigensolver, n * eps * ||matrix||_2.
        Raises InvalidValue unless it is square, finite and symmetric to 1e-10 of its largest entry (1e-5 in float32).

        >>> Spectrum.from_matrix([[2.0, 1.0], [1.0, 2.0]]).eigenvalues.round(decimals=9).tolist()
        [3.0, 1.0]
        """
        given = _tensor("matrix", matrix)
        if given.dim() != 2 or given.shape[0] != given.shape[1] or given.numel() == 0:
            raise InvalidValue(f"Spectrum.from_matrix: a square matrix is needed, this one is {tuple(given.shape)}")
        dense = given.to(torch.float64)
        if not bool(dense.isfinite().all()):
            raise InvalidValue("Spectrum.from_matrix: the matrix has entries that are not finite")
        skew, size = float((dense - dense.T).abs().max()), float(dense.abs().max())
        if skew > (1e-5 if given.dtype == torch.float32 else 1e-10) * size:
            raise InvalidValue(
                f"Spectrum.from_matrix: the matrix is not symmetric (largest difference to its transpose {skew:.3g}); "
                "a Hessian is; symmetrise with (A + A.T) / 2 if the rest is rounding"
            )
        values = torch.linalg.eigvalsh((dense + dense.T) / 2).flip(0)
        epsilon = torch.finfo(given.dtype if given.is_floating_point() else torch.float64).eps
        bounds = torch.full_like(values, len(values) * epsilon * float(values.abs().max()))
        fields.setdefault("provenance", {"method": "dense symmetric eigensolver", "converged": True})
        return cls(values=values, bounds=bounds, **fields)

    @classmethod
    def geometric(cls, mu: float, L: float, n: int) -> Self:  # noqa: N803 (the literature's names)
        """Return n eigenvalues spaced evenly in the logarithm from mu to L, 0 < mu <= L.

        >>> Spectrum.geometric(1.0, 100.0, 3).eigenvalues.tolist()
        [1.0, 10.0, 100.0]
        """
        if not (0 < mu <= L < math.inf) or n < 1 or (n == 1 and mu != L):
            raise InvalidValue(
                f"Spectrum.geometric: needs 0 < mu <= L and n >= 1 (2 if mu < L), not mu={mu}, L={L}, n={n}"
            )
        steps = torch.linspace(0, 1, n, dtype=torch.float64)
        values = mu * (L / mu) ** steps
        values[-1] = L
        return cls(values=values)

    @property
    def eigenvalues(self) -> Tensor:
        """The values, (n,) float64, in the order given."""
        return self.values

    @property
    def largest(self) -> float | None:
        """The largest eigenvalue by value; None where the spectrum does not cover it."""
        return float(self.values.max()) if self.covers in ("all", "top", "ends") else None

    @property
    def smallest(self) -> float | None:
        """The smallest eigenvalue by value; None where the spectrum does not cover it."""
        return float(self.values.min()) if self.covers in ("all", "bottom", "ends") else None

    @property
    def condition(self) -> float | None:
        """Condition number L / mu; infinite when mu = 0, None when mu < 0 or an end is not covered."""
        if self.largest is None or self.smallest is None or self.smallest < 0:
            return None
        return math.inf if self.smallest == 0 else self.largest / self.smallest

    def as_dict(self) -> dict[str, Any]:
        """Return the spectrum as plain data, for the file envelope."""
        return {name: plain(getattr(self, name)) for name in _FIELDS}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any], where: str = "") -> Self:
        """Return a spectrum from its plain data. Raises InvalidValue for a field that is wrong, by name."""
        wrong = wrong_field(content, _FIELDS)
        if wrong is None:
            known = {name: kind for name, kind in _PROVENANCE.items() if name in content["provenance"]}
            wrong = wrong_field(content["provenance"], known)
        if wrong is not None:
            raise InvalidValue(f"{where}{wrong}" if not where else f"{where.rstrip('.')}: {wrong}")
        return cls(**{name: content[name] for name in _FIELDS}, **cls._own(content))

    @classmethod
    def _own(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that a kind of spectrum keeps in its file beside the common ones."""
        return {}

    def words(self) -> Words:
        """Return the values with their bounds and weights."""
        low, high = float(self.values.min()), float(self.values.max())
        what = f"{len(self)} eigenvalue{'s' * (len(self) > 1)} ({self.covers}) of the {WHAT[self.operator]}"
        table = {"eigenvalue": self.values.tolist(), "bound": self.bounds.tolist(), "weight": self.weights.tolist()}
        sentence = f"{what}, n = {self.dimension}"
        return Words(f"{len(self)} of {self.dimension} {self.covers}, {low:.6g} to {high:.6g}", sentence, (), table)

    def plot(self, ax: Any = None) -> Any:
        """Draw the eigenvalues as stems with their bounds; return the axes."""
        from eigenstep import draw

        ax = draw.stems(range(1, len(self) + 1), self.values, self.bounds, ax)
        draw.line_at(0.0, ax, across="y")
        ax.set_xticks(range(1, len(self) + 1) if len(self) <= 12 else range(1, len(self) + 1, len(self) // 6))
        return draw.describe(ax, "number, in the order given", f"eigenvalue of the {WHAT[self.operator]}")

    def __iter__(self) -> Iterator[float]:
        """Iterate over the eigenvalues."""
        return iter(self.values.tolist())

    def __len__(self) -> int:
        """Return the number of values held, not the dimension."""
        return len(self.values)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(f"Spectrum: {name} must be numbers, not {type(value).__name__} ({error})") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidValue(f"Spectrum: {name} must be real numbers, not {tensor.dtype}")
    return (
        tensor
        if tensor.is_floating_point() and isinstance(value, Tensor)
        else torch.as_tensor(value, dtype=torch.float64)
    )


def _vector(name: str, value: Any) -> Tensor:
    tensor = _tensor(name, value).to(torch.float64)
    if tensor.dim() != 1:
        raise InvalidValue(f"Spectrum: {name} must be one-dimensional, not of shape {tuple(tensor.shape)}")
    if not bool(tensor.isfinite().all()):
        raise InvalidValue(f"Spectrum: {name} holds a value that is not finite")
    return tensor
