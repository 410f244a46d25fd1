"""A few updates on copies: what really happens first where second moments are too young for a limit to mean much."""

import math
from dataclasses import dataclass
from typing import Any

from eigenstep.objective import Objective
from eigenstep.stability.joint_limit import Edge

UPDATES = 20


@dataclass(frozen=True)
class TrialUpdates:
    """The losses of some updates by the optimizer's own rule, on copies, at its lr now, with all the data.

    losses: before each update and after the last; it ends early where the loss is not finite.
    """

    losses: tuple[float, ...]

    @property
    def rises(self) -> bool:
        """Whether the loss was ever above its start."""
        return not all(loss <= self.losses[0] for loss in self.losses)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"losses": list(self.losses), "rises": self.rises}


def trial_of(objective: Objective, edge: Edge, updates: int = UPDATES) -> TrialUpdates:
    """Return what some updates on copies do to the loss; inside a session."""
    points = {id(p): p.detach().clone().requires_grad_() for p in objective.params}
    states = {id(p): entry.group.state[p] for p, entry in zip(objective.params, edge.parameters, strict=True)}
    losses = [objective.value(points)]
    for update in range(1, updates + 1):
        parts = objective.split(objective.gradient(points))
        for p, entry, grad in zip(objective.params, edge.parameters, parts, strict=True):
            key = id(p)
            moved, states[key] = entry.rule.step(
                points[key].detach(), grad.to(p.dtype), states[key], entry.group.t + update
            )
            points[key] = moved.requires_grad_()
        losses.append(objective.value(points))
        if not math.isfinite(losses[-1]):
            break
    return TrialUpdates(tuple(losses))
