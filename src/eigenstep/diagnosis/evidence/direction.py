"""The direction nearest to the edge: which parameters it lies in, what puts it there, what the loss does along it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from eigenstep.curvature import FiniteStep, finite_step, shares
from eigenstep.curvature.operators import vectors as vec
from eigenstep.objective import Objective
from eigenstep.plain import key
from eigenstep.stability.joint_limit import Edge
from eigenstep.stability.limit import ratio_alone
from eigenstep.stability.result import Limit

Origin = Literal["curvature", "preconditioner", "lr ratios", "coupled weight decay", "decoupled weight decay"]
_BLIND = 0.3  # a finite step that disagrees by more than this with the Hessian sees what the Hessian does not
LAYERS = 8  # the layers with the largest shares are measured alone
_AGAIN = (1.0, 4.0)  # lengths of the check, in updates


@dataclass(frozen=True, eq=False)
class Direction:
    """The sharp direction, a unit move d of the parameters.

    - shares: by parameter, largest first, 1 in all; d's squared norm in each.
    - curvature: d' H d.
    - of_sharpest: the curvature over the Hessian's largest eigenvalue. Near 1 the curvature itself puts the direction
      there; well below, the preconditioner (or lr ratios) enlarges what is not the sharpest.
    - origin: what puts it there.
    - step: the loss over finite steps along d, of the length of an update and of four.
    - smooth: whether they show the curvature that the Hessian has; None where that is lost in rounding.
    """

    shares: Mapping[str, float]
    curvature: float
    of_sharpest: float | None
    origin: Origin
    step: FiniteStep = field(metadata=key("finite_step"))
    smooth: bool | None

    @property
    def where(self) -> str:
        """The largest share in words, '81% in classifier.weight'."""
        name, share = next(iter(self.shares.items()))
        return f"{share:.0%} in {name}"


@dataclass(frozen=True, eq=False)
class Location:
    """Where the direction nearest to the edge lies.

    - direction: all about it; None where there is no limit.
    - shares: by parameter, largest first, 1 in all; without a limit, of the Hessian's sharpest direction.
    - layers: by module, ratios; each as if the others stood still.
    """

    direction: Direction | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    layers: Mapping[str, float] = field(default_factory=dict)


def direction_of(objective: Objective, edge: Edge, limit: Limit, gradient: Tensor) -> Direction:
    """Return what is known about the direction that is nearest to the edge; inside a session."""
    d = limit.direction.to(objective.dtype)
    found = dict(sorted(shares(objective, d).items(), key=lambda item: -item[1]))
    curvature = float(vec.products(d[None], edge.operator.inner.matvec(d))[0])
    of_sharpest = curvature / limit.sharpness if limit.sharpness is not None and limit.sharpness > 0 else None
    decay, share = _decay(edge, d, curvature)
    origin: Origin = "curvature"
    if share > 0.5:
        origin = decay
    elif of_sharpest is not None and of_sharpest < 0.5:
        origin = "preconditioner" if edge.adaptive else "lr ratios"
    step = _step(objective, edge, d, gradient, curvature)
    return Direction(found, curvature, of_sharpest, origin, step, _smooth(step, curvature))


def layers_in(named: Mapping[str, float]) -> dict[str, list[str]]:
    """The parameters of each module, that with the largest share first. named: shares by parameter."""
    blocks: dict[str, list[str]] = {}
    for name in named:
        blocks.setdefault(name.rpartition(".")[0], []).append(name)
    return dict(sorted(blocks.items(), key=lambda block: -sum(named[name] for name in block[1])))


def layers_of(
    objective: Objective, optimizer: torch.optim.Optimizer, edge: Edge, blocks: Mapping[str, list[str]], seed: int
) -> dict[str, float]:
    """Return the ratio of each module alone, of the first LAYERS that move; inside a session."""
    movable = {entry.name for entry in edge.parameters if entry.moves}
    moving = [block for block in list(blocks)[:LAYERS] if movable.intersection(blocks[block])]
    return {
        block: ratio_alone(objective, optimizer, blocks[block], quick=True, tol=0.05, seed=seed) for block in moving
    }


def _decay(edge: Edge, d: Tensor, curvature: float) -> tuple[Origin, float]:
    """The part of d' (H + W) d that weight decay makes, and which kind it is."""
    moved = edge.operator.restrict(d)
    made = float((edge.operator.decay * moved * moved).sum())
    coupled = any(float(rule.weight_decay) and not rule.decoupled for rule in edge.rules)
    return ("coupled weight decay" if coupled else "decoupled weight decay"), made / (made + curvature) if made else 0.0


def _step(objective: Objective, edge: Edge, d: Tensor, gradient: Tensor, curvature: float) -> FiniteStep:
    """The check over what an update covers along d, but no shorter than the loss's rounding lets curvature be seen."""
    operator = edge.operator
    moved = operator.lift(operator.scale * operator.scale * operator.restrict(gradient))
    length = abs(float(vec.products(d[None], moved)[0]))
    loss, number = abs(objective.value()), torch.finfo(objective.params[0].dtype)
    seen = math.sqrt(80 * max(number.eps * loss, number.tiny) / abs(curvature)) if curvature else 0.0
    length = max(length, seen) or 1e-3
    return finite_step(objective, d, [length * times for times in _AGAIN])


def _smooth(step: FiniteStep, curvature: float) -> bool | None:
    shown, rounding = step.curvatures[0], step.rounding[0]
    if not math.isfinite(shown) or rounding > _BLIND * abs(curvature):
        return None
    return abs(shown - curvature) <= _BLIND * abs(curvature) + rounding
