"""Stability limits: the largest stable learning rate, the largest stable eigenvalue, the region in between."""

import math
from collections.abc import Callable
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.rules import LinearRule, Rule
from eigenstep.theory.linear import is_stable, iteration_matrix, linear, radii

# The edge is looked for within this many decades of the natural scale 1 / eigenvalue, then cut to rounding: into 16
# parts a round where the lanes are few, since a call costs more than they do there, and else into halves.
_DECADES, _PER_DECADE = 9, 40
_WAYS, _FEW = 16, 1000


@overload
def max_stable_lr(rule: Rule, sharpness: float) -> float: ...
@overload
def max_stable_lr(rule: Rule, sharpness: Tensor) -> Tensor: ...
def max_stable_lr(rule: Rule, sharpness: float | Tensor) -> float | Tensor:
    """Return the lr below which the rule is stable along a direction of this curvature; rule.lr is ignored.

    The supremum of {lr : rho(M(lr, sharpness)) < 1} at the rule's late coefficients, with its weight decay, coupled or
    decoupled. sharpness is an eigenvalue of the Hessian or, for an adaptive rule, of P^-1/2 (H + wI) P^-1/2 with P
    frozen (then it is the frozen-P limit). AdaGrad's is infinite: its unit only grows, until nothing but decoupled
    decay is left to set a limit. Infinite is also that of a flat direction that nothing moves; a direction from which
    every lr moves away has 0. A tensor of sharpnesses gives a tensor of limits, as do lanes in the rule.

    Raises InvalidValue for a sharpness that is not finite, Unsupported for a rule that is not linear.

    >>> from eigenstep.rules import Adam, HeavyBall
    >>> round(max_stable_lr(HeavyBall(momentum=0.9), 100.0), 12)
    0.038
    >>> round(max_stable_lr(Adam(), 1.0), 9)
    38.0
    """
    rule = linear(rule)
    values = _finite("sharpness", sharpness)
    if rule.unit_only_grows:
        grown = frozen_limit(rule, torch.zeros_like(values))
        limits = torch.where((values < 0) & (_acting_decay(rule) == 0), 0.0, grown)
    else:
        limits = frozen_limit(rule, values)
    return limits if isinstance(sharpness, Tensor) or limits.dim() else float(limits)


def frozen_limit(rule: Rule, sharpness: Tensor) -> Tensor:
    """Return `max_stable_lr` as if the rule's unit never changed: for AdaGrad 2 / a, else the same."""
    rule = linear(rule)
    fixed = rule.replace(lr=1.0)
    sharpness = sharpness.expand(np.broadcast_shapes(fixed.lanes, sharpness.shape))
    decay = _acting_decay(rule)
    nothing_moves = (sharpness == 0) & (decay == 0)
    scale = 1 / torch.where(nothing_moves, 1.0, torch.maximum(sharpness.abs(), decay))

    def stable(lr: Tensor) -> Tensor:
        return is_stable(iteration_matrix(fixed.replace(lr=lr), sharpness.unsqueeze(-1))).squeeze(-1)

    return torch.where(nothing_moves, math.inf, _edge(stable, scale))


def stable_directions(rule: Rule, eigenvalues: Tensor) -> Tensor:
    """Tell whether the rule, at its lr, contracts along directions of these curvatures (n,); AdaGrad in the end.

    >>> from eigenstep.rules import AdaGrad, HeavyBall
    >>> curvatures = torch.tensor([-1.0, 0.0, 1.0, 50.0])
    >>> stable_directions(HeavyBall(lr=0.1), curvatures).tolist()
    [False, False, True, False]
    >>> stable_directions(AdaGrad(lr=0.1), curvatures).tolist()
    [False, False, True, True]
    """
    rule = linear(rule)
    if not rule.unit_only_grows:
        return is_stable(iteration_matrix(rule, eigenvalues))
    moved = (eigenvalues != 0) | (_acting_decay(rule) != 0)
    return moved & (torch.as_tensor(rule.lr, dtype=torch.float64) < max_stable_lr(rule, eigenvalues))


def largest_stable_eigenvalue(rule: Rule) -> float:
    """Return the curvature below which the rule, at its own lr, is stable along a direction: the inverse question.

    For adaptive rules it is the largest preconditioned eigenvalue a; lr * a is then 38 for Adam, 2 for RMSProp.
    Raises InvalidValue at lr = 0, where every curvature is harmless.

    >>> from eigenstep.rules import GradientDescent
    >>> round(largest_stable_eigenvalue(GradientDescent(lr=0.5)), 12)
    4.0
    """
    rule = linear(rule)
    lr = torch.as_tensor(rule.lr, dtype=torch.float64)
    if not bool((lr > 0).all()):
        raise InvalidValue(f"{type(rule).__name__}: at lr = 0 nothing moves, so no curvature is too large; give lr > 0")

    def stable(eigenvalue: Tensor) -> Tensor:
        return is_stable(iteration_matrix(rule, eigenvalue.unsqueeze(-1))).squeeze(-1)

    return float(_edge(stable, 1 / lr))


def stability_region(rule: Rule, sharpness: float, lr: Tensor, momentum: Tensor) -> Tensor:
    """Return the spectral radius over a grid, (len(momentum), len(lr)): stable where it is below 1.

    `momentum` sets the field of that name, or the first beta of a rule that has betas.

    >>> from eigenstep.rules import HeavyBall
    >>> stability_region(HeavyBall(), 1.0, torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.9])) < 1
    tensor([[ True, False],
            [ True,  True]])
    """
    grid = with_momentum(rule.replace(lr=lr.to(torch.float64)), momentum.to(torch.float64).unsqueeze(-1))
    return radii(grid, _finite("sharpness", sharpness).reshape(1)).squeeze(-1)


AnyRule = TypeVar("AnyRule", bound=Rule)


def momentum_of(rule: Rule) -> float | Tensor | None:
    """Return the rule's momentum, or its first beta; None for a rule that has neither."""
    if hasattr(rule, "betas"):
        return rule.betas[0]  # type: ignore[no-any-return]
    return getattr(rule, "momentum", None)


def with_momentum(rule: AnyRule, momentum: float | Tensor) -> AnyRule:
    """Return the rule with another momentum, or first beta. Raises InvalidValue for a rule that has neither."""
    if hasattr(rule, "betas"):
        return rule.replace(betas=(momentum, rule.betas[1]))
    if hasattr(rule, "momentum"):
        return rule.replace(momentum=momentum)
    raise InvalidValue(f"{type(rule).__name__} has no momentum to set; choose a rule with momentum= or betas=")


def _edge(stable: Callable[[Tensor], Tensor], scale: Tensor) -> Tensor:
    """The upper end of the stable set per lane: 0 if nothing is stable, inf if the largest value tried still is."""
    steps = 2 * _DECADES * _PER_DECADE + 1
    exponents = torch.linspace(-_DECADES, _DECADES, steps, dtype=torch.float64).reshape(-1, *[1] * scale.dim())
    tried = scale * 10.0**exponents
    good = stable(tried)
    last = torch.where(good, torch.arange(steps).reshape(-1, *[1] * scale.dim()), -1).amax(0)
    low = tried.gather(0, last.clamp(min=0).unsqueeze(0)).squeeze(0)
    high = tried.gather(0, (last + 1).clamp(max=steps - 1).unsqueeze(0)).squeeze(0)
    ways = _WAYS if scale.numel() < _FEW else 2
    numbers = torch.arange(1, ways).reshape(-1, *[1] * scale.dim())
    shares = numbers.double() / ways
    while bool(((high - low) > 4e-16 * high).any()):
        inner = low + (high - low) * shares
        at = torch.where(stable(inner), numbers, 0).amax(0, keepdim=True)
        points = torch.cat([low.unsqueeze(0), inner, high.unsqueeze(0)])
        narrower = points.gather(0, at).squeeze(0), points.gather(0, at + 1).squeeze(0)
        if bool(((narrower[0] == low) & (narrower[1] == high)).all()):
            break
        low, high = narrower
    edge = torch.where(last < 0, 0.0, high)
    return torch.where(last == steps - 1, math.inf, edge)


def _acting_decay(rule: LinearRule) -> Tensor:
    """The weight decay that the rule's matrices add; an adaptive rule's coupled decay is in its eigenvalues already."""
    inside = rule.adaptive and not rule.decoupled
    return torch.as_tensor(0.0 if inside else rule.weight_decay, dtype=torch.float64)


def _finite(name: str, value: float | Tensor) -> Tensor:
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(f"{name} must be a number or a tensor of numbers, not {type(value).__name__}") from error
    if not bool(tensor.isfinite().all()):
        raise InvalidValue(f"{name}={value!r} must be finite")
    return tensor
