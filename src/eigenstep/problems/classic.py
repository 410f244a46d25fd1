"""Classic test functions: Rosenbrock's valley, Himmelblau's four minima, a well that is flat and one that is sharp."""

import math

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.problems.base import Problem


class _Classic(Problem):
    """A function with its start and minima written down."""

    _start: tuple[float, ...]
    _minima: tuple[tuple[float, ...], ...]

    @property
    def start(self) -> Tensor:
        """Where a run begins unless told otherwise."""
        return torch.tensor(self._start, dtype=torch.float64)

    @property
    def minima(self) -> Tensor:
        """The minima, (m, n)."""
        return torch.tensor(self._minima, dtype=torch.float64)


class Rosenbrock(_Classic):
    """Rosenbrock's curved valley (1960): (1 - x)^2 + 100 (y - x^2)^2, minimum 0 at (1, 1), start (-1.2, 1).

    >>> Rosenbrock().loss(Rosenbrock().start).item()
    24.199999999999996
    """

    name = "rosenbrock"
    dimension = 2
    _start = (-1.2, 1.0)
    _minima = ((1.0, 1.0),)

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and (-2 (1 - x) - 400 x (y - x^2), 200 (y - x^2))."""
        u, v = x.unbind(-1)
        short, above = 1 - u, v - u * u
        slope = 200 * above
        return short * short + 100 * above * above, _points(-2 * short - 2 * u * slope, slope)

    def hessian(self, x: Tensor) -> Tensor:
        """((2 - 400 (y - 3 x^2), -400 x), (-400 x, 200))."""
        u, v = self.one_point(x).unbind(-1)
        return _symmetric(2 - 400 * (v - 3 * u * u), -400 * u, torch.full_like(u, 200.0))


class Himmelblau(_Classic):
    """Himmelblau's function (1972): (x^2 + y - 11)^2 + (x + y^2 - 7)^2, four minima of value 0, start (0, 0).

    >>> len(Himmelblau().minima)
    4
    """

    name = "himmelblau"
    dimension = 2
    _start = (0.0, 0.0)
    _minima = (
        (3.0, 2.0),
        (-2.805118086952745, 3.131312518250573),
        (-3.779310253377747, -3.283185991286170),
        (3.584428340330492, -1.848126526964404),
    )

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a^2 + b^2 and (4 x a + 2 b, 2 a + 4 y b), with a = x^2 + y - 11 and b = x + y^2 - 7."""
        u, v = x.unbind(-1)
        a, b = u * u + v - 11, u + v * v - 7
        return a * a + b * b, _points(4 * u * a + 2 * b, 2 * a + 4 * v * b)

    def hessian(self, x: Tensor) -> Tensor:
        """((12 x^2 + 4 y - 42, 4 (x + y)), (4 (x + y), 12 y^2 + 4 x - 26))."""
        u, v = self.one_point(x).unbind(-1)
        return _symmetric(12 * u * u + 4 * v - 42, 4 * (u + v), 12 * v * v + 4 * u - 26)


class DoubleWell(_Classic):
    """Two parabolic wells of equal depth, a flat one at x = -1 and a sharp one at x = 1, joined smoothly.

    loss = -T ln(exp(-q1 / T) + exp(-q2 / T)) (+ 1/2 transverse y^2 in two dimensions), q1 = flat / 2 (x + 1)^2 and
    q2 = sharp / 2 (x - 1)^2. With T = flat / 20 either well is felt at the other's minimum by exp(-40), which is below
    float64's rounding: the sharpnesses there are flat and sharp, the losses 0 (to 1e-17). The start lies beyond the
    sharp well, which gradient descent can settle in only below lr = 2 / sharp: the lr selects the minimum.

    Raises InvalidValue unless 0 < flat <= sharp, transverse > 0 and dimension is 1 or 2.

    >>> well = DoubleWell(flat=4.0, sharp=100.0)
    >>> [round(well.hessian(m).item(), 9) for m in well.minima]
    [4.0, 100.0]
    """

    name = "double-well"

    def __init__(self, flat: float = 4.0, sharp: float = 100.0, *, dimension: int = 1, transverse: float = 1.0) -> None:
        if not (0 < flat <= sharp < math.inf and 0 < transverse < math.inf):
            raise InvalidValue(
                f"DoubleWell: needs 0 < flat <= sharp and transverse > 0, not flat={flat}, sharp={sharp}, "
                f"transverse={transverse}"
            )
        if dimension not in (1, 2):
            raise InvalidValue(f"DoubleWell: dimension={dimension} must be 1 or 2")
        self.flat, self.sharp, self.dimension, self.transverse = float(flat), float(sharp), dimension, float(transverse)
        self._temperature = self.flat / 20
        self._start = (1.5, 0.5)[:dimension]
        self._minima = ((-1.0, 0.0)[:dimension], (1.0, 0.0)[:dimension])

    def _wells(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both wells' slopes (2, B...), the loss, and the weight of the sharp well."""
        left, right = u + 1, u - 1
        slopes = torch.stack((self.flat * left, self.sharp * right))
        excess = (slopes[0] * left - slopes[1] * right) / (2 * self._temperature)  # (q1 - q2) / T
        lower = torch.minimum(slopes[0] * left, slopes[1] * right) / 2
        joined = lower - self._temperature * torch.log1p(torch.exp(-excess.abs()))
        return slopes, joined, torch.sigmoid(excess)

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the slopes of the wells weighted by exp(-q / T), normalised."""
        slopes, loss, weight = self._wells(x[..., 0])
        slope = torch.lerp(slopes[0], slopes[1], weight)
        if self.dimension == 1:
            return loss, slope.unsqueeze(-1)
        v = x[..., 1]
        return loss + self.transverse / 2 * v * v, _points(slope, self.transverse * v)

    def hessian(self, x: Tensor) -> Tensor:
        """Diagonal: the mean curvature less the variance of the slope over T; and the transverse curvature."""
        slopes, _, weight = self._wells(self.one_point(x)[0])
        variance = weight * (1 - weight) * (slopes[1] - slopes[0]) ** 2
        curvature = self.flat + weight * (self.sharp - self.flat) - variance / self._temperature
        return torch.diag(torch.stack((curvature, torch.full_like(curvature, self.transverse)))[: self.dimension])


def _points(*coordinates: Tensor) -> Tensor:
    """Points (B..., n) from n tensors (B...), laid out with the lanes side by side in memory."""
    return torch.stack(coordinates).movedim(0, -1)


def _symmetric(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.stack((a, b, b, c)).reshape(2, 2)
