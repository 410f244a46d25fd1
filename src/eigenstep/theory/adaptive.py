"""Adaptive methods near a minimum: the orbit they end in, when they converge, the bound on Adam's step."""

import math

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.rules import LinearRule, Rule
from eigenstep.theory.limits import largest_stable_eigenvalue
from eigenstep.theory.linear import linear


def orbit_half_width(rule: Rule) -> float:
    """Return the half-width of the period-2 orbit in which an adaptive rule at a fixed lr ends, per coordinate.

    On the orbit the unit equals the gradient, P = lambda c, and P sits on the edge of frozen-P stability: hence c =
    1 / a, a the largest stable preconditioned eigenvalue. It does not depend on lambda: lr (1 - b1) / (2 (1 + b1))
    for Adam, lr / 2 for RMSProp, lr / (2 (1 + momentum)) with momentum. eps is taken as negligible; real Adam
    bursts around this width.

    Raises Unsupported for a rule that does not adapt, or whose unit does not forget (AdaGrad, AMSGrad): those converge.

    >>> from eigenstep.rules import Adam
    >>> round(38 * orbit_half_width(Adam(lr=0.1)), 12)
    0.1
    """
    return 1 / largest_stable_eigenvalue(_forgetting(rule))


def converging_eps(rule: Rule, sharpness: float) -> float:
    """Return the eps (outside the root; its square is the delta inside) above which the rule converges.

    At the minimum P = eps, and sharpness / eps must stay below the largest stable eigenvalue a: eps > sharpness / a.
    That is lr sharpness (1 - b1) / (2 (1 + b1)) for Adam, lr sharpness / 2 for RMSProp. Raises as `orbit_half_width`.

    >>> from eigenstep.rules import RMSProp
    >>> round(converging_eps(RMSProp(lr=0.1), 4.0), 12)
    0.2
    """
    if not math.isfinite(sharpness) or sharpness <= 0:
        raise InvalidValue(f"sharpness={sharpness} must be finite and positive")
    return sharpness / largest_stable_eigenvalue(_forgetting(rule))


def adam_step_bound(betas: tuple[float, float], t: int | None = None) -> float:
    """Return the sharp bound on |m_hat| / sqrt(s_hat), the size of Adam's step in units of lr.

    By Cauchy-Schwarz over the gradients so far, attained by g_i ~ (b1 / b2)^(t - i): its square is
    (1 - b1)^2 / (1 - b2) * sum_(k < t) (b1^2 / b2)^k * (1 - b2^t) / (1 - b1^t)^2. For t=None its limit
    (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)), 7.27 at (.9, .999); infinite unless b1^2 < b2. It is 1 when b1 = b2.

    Raises InvalidValue for betas outside [0, 1) or t < 1.

    >>> round(adam_step_bound((0.9, 0.999)), 2), round(adam_step_bound((0.9, 0.999), t=10), 2)
    (7.27, 1.04)
    """
    b1, b2 = betas
    if not (0 <= b1 < 1 and 0 <= b2 < 1):
        raise InvalidValue(f"betas={betas} must both be at least 0 and below 1")
    if t is not None and t < 1:
        raise InvalidValue(f"t={t} must be at least 1; the first update is number 1")
    if b1 == 0:
        finite = 1.0 if t is None else 1 - b2**t
        return math.sqrt(finite / (1 - b2))
    if b1**2 >= b2 and t is None:
        return math.inf
    if b2 == 0:
        return math.inf if t is None or t > 1 else 1.0
    if t is None:
        return (1 - b1) / math.sqrt((1 - b2) * (1 - b1**2 / b2))
    total = float(torch.pow(torch.tensor(b1**2 / b2, dtype=torch.float64), torch.arange(t)).sum())
    return (1 - b1) / (1 - b1**t) * math.sqrt(total * (1 - b2**t) / (1 - b2))


def preconditioned_eigenvalues(rule: LinearRule, eigenvalues: Tensor, unit: float | Tensor) -> Tensor:
    """Return a = (lambda + w) / P for a unit P that is one number or aligned with the eigenvalues; w: coupled decay.

    Raises InvalidValue unless the unit is positive and finite.
    """
    units = torch.as_tensor(unit, dtype=torch.float64)
    if units.dim() > 0 and units.shape != eigenvalues.shape:
        raise InvalidValue(
            f"unit has shape {tuple(units.shape)}; give one number, or one per eigenvalue for a Hessian that is "
            "diagonal. Otherwise build the spectrum of P^-1/2 (H + wI) P^-1/2, with operator='preconditioned'"
        )
    if not bool(((units > 0) & units.isfinite()).all()):
        raise InvalidValue(f"unit={unit} must be positive and finite")
    decay = 0.0 if rule.decoupled else rule.weight_decay
    return (eigenvalues + decay) / units


def _forgetting(rule: Rule) -> LinearRule:
    rule = linear(rule)
    if not rule.adaptive:
        raise Unsupported(
            f"{type(rule).__name__} does not adapt its unit; its limit is max_stable_lr, and below it converges"
        )
    if rule.unit_only_grows or getattr(rule, "amsgrad", False):
        raise Unsupported(
            f"{type(rule).__name__}'s unit never falls, so that it converges at any eps; there is no orbit"
        )
    return rule
