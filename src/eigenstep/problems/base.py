"""What a problem is: a loss with its gradient, exact Hessian, start and minima, for one point or a batch."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.spectrum import Spectrum


class Problem(ABC):
    """A loss to run rules on; a subclass gives `loss_and_gradient`, `hessian`, `start` and `minima`.

    Points are (B..., n), losses (B...), gradients (B..., n), in the dtype of the points; `start` (n,) and `minima`
    (m, n) are float64. Each minimum has zero gradient (to 1e-8) and a positive semi-definite Hessian, unless a
    problem says otherwise.
    """

    name: str = ""
    dimension: int

    @property
    @abstractmethod
    def start(self) -> Tensor:
        """Where a run begins unless told otherwise, (n,) float64."""

    @property
    @abstractmethod
    def minima(self) -> Tensor:
        """The known minima, (m, n) float64, the one of lowest loss first."""

    @abstractmethod
    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses (B...) and gradients (B..., n) at the points (B..., n), sharing the work."""

    @abstractmethod
    def hessian(self, x: Tensor) -> Tensor:
        """Return the exact Hessian (n, n) at one point (n,)."""

    @property
    def minimum(self) -> Tensor:
        """The known minimum of lowest loss, (n,) float64."""
        return self.minima[0]

    def loss(self, x: Tensor) -> Tensor:
        """Return the losses (B...) at the points (B..., n)."""
        return self.loss_and_gradient(x)[0]

    def gradient(self, x: Tensor) -> Tensor:
        """Return the gradients (B..., n) at the points (B..., n)."""
        return self.loss_and_gradient(x)[1]

    def distance(self, x: Tensor) -> Tensor:
        """Return the Euclidean distance (B...) of the points (B..., n) to the nearest known minimum."""
        to_each = [total((x - m) ** 2) for m in self.minima.to(x.dtype)]
        nearest = to_each[0]
        for other in to_each[1:]:
            nearest = torch.minimum(nearest, other)
        return nearest.sqrt()

    def spectrum(self, x: Tensor | None = None) -> Spectrum:
        """Return all eigenvalues of the exact Hessian at one point (n,), by default the minimum.

        >>> from eigenstep.problems import Rosenbrock
        >>> round(Rosenbrock().spectrum().largest, 2)
        1001.6
        """
        return Spectrum.from_matrix(self.hessian(self.one_point(self.minimum if x is None else x)))

    def one_point(self, x: Tensor) -> Tensor:
        """Return x if it is one point (n,); InvalidValue otherwise."""
        if x.shape != (self.dimension,):
            raise InvalidValue(
                f"{self.name or type(self).__name__}: one point of {self.dimension} coordinates is needed here, "
                f"not shape {tuple(x.shape)}"
            )
        return x


def total(terms: Tensor) -> Tensor:
    """Sum over the last dimension; a few coordinates one by one, so that a lane's bits do not depend on its batch."""
    if terms.shape[-1] > 8:
        return terms.sum(-1)
    columns = terms.unbind(-1)
    summed = columns[0]
    for column in columns[1:]:
        summed = summed + column
    return summed
