"""How much of an optimizer's next step its limit can speak for: where the loss still is the quadratic it looks like."""

import math

import torch

from eigenstep.bridge.param_groups import largest_momentum
from eigenstep.objective import Objective
from eigenstep.stability.copies import refuse_foreign
from eigenstep.stability.critical import pending

TOLERANCE = 0.005  # of the gradient's norm; found on the advice benchmark's development tasks
_HALVINGS = 5


def trusted(objective: Objective, optimizer: torch.optim.Optimizer, lr: float, tolerance: float = TOLERANCE) -> float:
    """Return the largest of lr, lr / 2, ... lr / 32 at which the next step stays within the local quadratic.

    Along a step d of a quadratic the gradient g is a straight line, so that g(d) - 2 g(d / 2) + g(0) = 0; here its norm
    is at most `tolerance` |g(0)|. A limit speaks for that quadratic only: on a plateau, or at a sharp start, the loss
    is another one long before a step of the limit's length ends. With momentum that has not begun, d is the step that
    it settles at, 1 / (1 - momentum) times the first. lr is that of the first group that moves; one gradient for each
    halving; nothing of the user's changes.

    Raises what critical_sharpness raises.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> objective = Objective(model, lambda model, x: 2 * (model(x) ** 2).mean(), torch.ones(1, 1))
    >>> trusted(objective, torch.optim.SGD(model.parameters(), lr=0.1), 0.4)
    0.4
    """
    refuse_foreign("trusted", objective, optimizer)
    objective = objective.per_update()
    with objective.session():
        update, _, own, _ = pending(objective, optimizer)
        first = objective.join([update.get(p, torch.zeros_like(p)) for p in objective.params])
        step = first * (lr / own * _settled(optimizer))
        here = objective.gradient()
        bar = tolerance * float(here.norm())
        share, whole = 1.0, objective.gradient(objective.at(step))
        while share > 0.5**_HALVINGS:
            half = objective.gradient(objective.at(step * (share / 2)))
            bend = float((whole - 2 * half + here).norm())
            if math.isfinite(bend) and bend <= bar:
                break
            share, whole = share / 2, half
    return lr * share


def _settled(optimizer: torch.optim.Optimizer) -> float:
    """What momentum multiplies the next step by before it has settled."""
    if optimizer.state:
        return 1.0
    return 1 / max(1 - largest_momentum(optimizer), 0.01)
