"""Quadratics of any dimension with prescribed spectrum, minimum and rotation."""

import math
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, refuse_seed
from eigenstep.problems.base import Problem, total
from eigenstep.spectrum import Spectrum


class Quadratic(Problem):
    """The quadratic 1/2 (x - m)^T H (x - m), H = Q diag(eigenvalues) Q^T, of value 0 at its minimum m.

    eigenvalues: (n,), in any order, zero and negative ones allowed (m is then a stationary point). minimum: (n,), by
    default the origin. Q is the identity; or, for n = 2, the rotation by `angle` radians; or, for any n, a random
    rotation drawn from `seed`. start: (n,), by default an error of 1 in every eigencomponent.

    Raises InvalidValue for values that are not finite, for misshapen ones, and for an angle where n is not 2.

    >>> problem = Quadratic([1.0, 100.0], minimum=[0.8, 0.6], start=[0.0, 0.0])
    >>> problem.loss(problem.start).item(), problem.gradient(problem.start).tolist()
    (18.32, [-0.8, -60.0])
    """

    name = "quadratic"

    def __init__(
        self,
        eigenvalues: Any,
        minimum: Any = None,
        *,
        angle: float | None = None,
        seed: int | None = None,
        start: Any = None,
    ) -> None:
        values = eigenvalues.eigenvalues if isinstance(eigenvalues, Spectrum) else eigenvalues
        self.eigenvalues = _vector("eigenvalues", values)
        self.dimension = len(self.eigenvalues)
        if self.dimension == 0:
            raise InvalidValue("Quadratic: at least one eigenvalue is needed")
        origin = torch.zeros(self.dimension, dtype=torch.float64)
        self._minimum = origin if minimum is None else _vector("minimum", minimum, self.dimension)
        self.rotation = _rotation(self.dimension, angle, seed)
        ones = torch.ones(self.dimension, dtype=torch.float64)
        self._start = self.from_components(ones) if start is None else _vector("start", start, self.dimension)

    @property
    def start(self) -> Tensor:
        """Where a run begins unless told otherwise."""
        return self._start

    @property
    def minima(self) -> Tensor:
        """The one minimum, (1, n)."""
        return self._minimum.unsqueeze(0)

    @property
    def vectors(self) -> Tensor:
        """Q, (n, n): column i is the eigenvector of eigenvalue i."""
        return torch.eye(self.dimension, dtype=torch.float64) if self.rotation is None else self.rotation

    def components(self, x: Tensor) -> Tensor:
        """Return the eigencomponents Q^T (x - m) of the error of points (B..., n), aligned with the eigenvalues."""
        error = x - self._minimum.to(x.dtype)
        return error if self.rotation is None else _combine(error, self.rotation.to(x.dtype))

    def from_components(self, components: Any) -> Tensor:
        """Return the points m + Q c that have the eigencomponents c, (B..., n)."""
        c = components if isinstance(components, Tensor) else torch.as_tensor(components, dtype=torch.float64)
        error = c if self.rotation is None else _combine(c, self.rotation.T.to(c.dtype))
        return self._minimum.to(c.dtype) + error

    def rotated(self, *, angle: float | None = None, seed: int | None = None) -> "Quadratic":
        """Return the problem with its eigenvectors turned and its start moved along: the same eigen-errors.

        >>> turned = Quadratic([1.0, 100.0], [0.8, 0.6], start=[0.0, 0.0]).rotated(angle=math.pi / 4)
        >>> turned.components(turned.start).round(decimals=9).tolist()
        [-0.8, -0.6]
        """
        turned = Quadratic(self.eigenvalues, self._minimum, angle=angle, seed=seed)
        turned._start = turned.from_components(self.components(self._start))
        return turned

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """1/2 sum lambda c^2 and Q (lambda c), c the eigencomponents."""
        c = self.components(x)
        slope = c * self.eigenvalues.to(x.dtype)
        gradient = slope if self.rotation is None else _combine(slope, self.rotation.T.to(x.dtype))
        return total(c * slope) / 2, gradient

    def loss(self, x: Tensor) -> Tensor:
        """1/2 sum lambda c^2."""
        c = self.components(x)
        return total(c * (c * self.eigenvalues.to(x.dtype))) / 2

    def hessian(self, x: Tensor) -> Tensor:
        """Q diag(eigenvalues) Q^T, the same everywhere."""
        values = self.eigenvalues.to(self.one_point(x).dtype)
        vectors = self.vectors.to(x.dtype)
        product = (vectors * values) @ vectors.T
        return (product + product.T) / 2

    def spectrum(self, x: Tensor | None = None) -> Spectrum:
        """Return the prescribed eigenvalues, exact and in the order given."""
        return Spectrum.from_eigenvalues(self.eigenvalues)


def _combine(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix; for a few coordinates column by column, so that a lane's bits do not depend on its batch."""
    if x.shape[-1] > 8:
        return x @ matrix
    rows = [column.unsqueeze(-1) * row for column, row in zip(x.unbind(-1), matrix.unbind(0), strict=True)]
    combined = rows[0]
    for row in rows[1:]:
        combined = combined + row
    return combined


def _rotation(n: int, angle: float | None, seed: int | None) -> Tensor | None:
    """Q: None for the identity, the plane rotation by `angle`, or a seeded one uniform over all rotations."""
    if angle is not None and seed is not None:
        raise InvalidValue("Quadratic: give an angle (in two dimensions) or a seed, not both")
    if angle is not None:
        if n != 2 or not math.isfinite(angle):
            raise InvalidValue(f"Quadratic: angle={angle} turns two dimensions, this one has {n}; give a seed instead")
        c, s = math.cos(angle), math.sin(angle)
        return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    if seed is None:
        return None
    refuse_seed("Quadratic", seed)
    gaussian = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal().sign()  # without it QR's sign convention biases the draw
    return torch.cat([q[:, :1] * torch.linalg.det(q).sign(), q[:, 1:]], dim=1)


def _vector(name: str, value: Any, n: int | None = None) -> Tensor:
    try:
        vector = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(f"Quadratic: {name} must be numbers ({error})") from error
    if vector.dim() != 1 or (n is not None and len(vector) != n):
        wanted = "one-dimensional" if n is None else f"of {n} coordinates, one an eigenvalue"
        raise InvalidValue(f"Quadratic: {name} must be {wanted}, not of shape {tuple(vector.shape)}")
    if not bool(vector.isfinite().all()):
        raise InvalidValue(f"Quadratic: {name} holds a value that is not finite")
    return vector.clone()
