"""How a rule's point answers an alternating gradient: what joins groups of different rules in one stability limit."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from eigenstep.errors import Unsupported
from eigenstep.rules import Rule
from eigenstep.theory.linear import iteration_matrix, linear

_ANGLES = 181  # where on the upper half circle the sign of Im G is looked at; it is a low-order rational function


class Response(NamedTuple):
    """What the edge asks of a rule: along curvature h (per unit) it lies where lr (gain h + decay_term) = 1.

    gain: lr * gain is the point's answer to a gradient that changes sign at every update. decay_term: what decoupled
    weight decay adds. passive: whether the answer turns one way at all frequencies, so that -1 is the only place where
    groups of such rules, however mixed, can leave the unit circle as lr grows.
    """

    gain: float
    decay_term: float
    passive: bool


def response(rule: Rule, t: int | None = None) -> Response:
    """Return a rule's answer to an alternating gradient, at the coefficients of update t (late: None); lr is ignored.

    A rule's update is z <- A z + b g for state z = (point, buffers), so that a gradient g r^k moves the point by G(r) g
    r^k, G(r) = e' (rI - A)^-1 b. Coupled through a symmetric curvature H, groups with responses G_i have a multiplier r
    iff det(I - diag(G_i(r)) H) = 0. If u = Hv then v'u is real and equals sum G_i(r) |u_i|^2, so that where all Im G_i
    > 0 on the open upper half circle ('passive', a positive combination of gradient and velocities always is), no
    multiplier sits there for any H: the only crossing that a larger lr brings is r = -1, and 1 / G_i(-1) = (1 / lr -
    decay_term) / gain. Hence the joint edge of any mixture is one symmetric eigenvalue.

    Coupled decay is left out: it belongs to the curvature. Raises Unsupported for a rule that is not linear, or whose
    answer is not of that form in lr.

    >>> from eigenstep.rules import Adam, GradientDescent, HeavyBall
    >>> [round(1 / response(rule).gain, 9) for rule in (GradientDescent(), HeavyBall(momentum=0.9), Adam())]
    [2.0, 3.8, 38.0]
    """
    rule = linear(rule)
    if not rule.decoupled:
        rule = rule.replace(weight_decay=0.0)
    small = 0.5 / max(1.0, float(rule.weight_decay))  # far below lr * weight_decay = 2, where G(-1) is infinite
    minus = torch.tensor([-1.0], dtype=torch.complex128)
    inverse = [float((1 / _transfer(rule.replace(lr=lr), minus, t)).real) for lr in (small, small / 2, small / 4)]
    if not all(map(math.isfinite, inverse)):
        return Response(0.0, 0.0, True)  # no gradient moves the point: AdaGrad whose lr_decay has used up its lr
    # 1 / G(-1) = slope / lr - rest
    slope = (inverse[1] - inverse[0]) * small
    rest = slope / small - inverse[0]
    if abs(4 * slope / small - rest - inverse[2]) > 1e-6 * abs(inverse[2]) or slope <= 0:
        raise Unsupported(
            f"{type(rule).__name__}: its step does not grow with lr as a gradient method's does, so no joint limit of "
            "groups is known; judge it by critical sharpness or by simulation"
        )
    angles = torch.arange(1, _ANGLES, dtype=torch.float64) * (math.pi / _ANGLES)
    turned = _transfer(rule.replace(lr=small), torch.polar(torch.ones_like(angles), angles), t).imag
    return Response(1 / slope, rest / slope, bool((turned > 0).all()))


def _transfer(rule: Rule, r: Tensor, t: int | None) -> Tensor:
    """G(r) = e' (rI - A)^-1 b at points r (k,), complex."""
    flat, one = (iteration_matrix(rule, torch.tensor([h], dtype=torch.float64), t)[0] for h in (0.0, 1.0))
    size = flat.shape[0]
    shifted = r[:, None, None] * torch.eye(size, dtype=r.dtype) - flat.to(r.dtype)
    column = (one - flat)[:, :1].to(r.dtype).expand(len(r), size, 1)
    moved: Tensor = torch.linalg.solve(shifted, column)[:, 0, 0]
    return moved
