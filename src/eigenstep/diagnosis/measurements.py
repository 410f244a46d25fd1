"""What a diagnosis measures, part by part, inside one session."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from eigenstep.bridge import rule_of
from eigenstep.curvature import Measurement, measure
from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.operators.preconditioned import stepped_by
from eigenstep.curvature.operators.unit import frozen
from eigenstep.diagnosis.direction import Location, direction_of
from eigenstep.diagnosis.minibatches import Spread, spread_of
from eigenstep.diagnosis.rates import decay_of, one_rule, slowness
from eigenstep.diagnosis.trial import TrialUpdates, trial_of
from eigenstep.diagnosis.what_if import Pace, what_if
from eigenstep.errors import Unsupported
from eigenstep.objective import Objective
from eigenstep.rules import LinearRule
from eigenstep.stability.critical import CriticalSharpness, critical_sharpness
from eigenstep.stability.joint_limit import Edge, edge_of
from eigenstep.stability.limit import limit_now, ratio_alone
from eigenstep.stability.result import Limit
from eigenstep.stability.zero_gradient import DOWNWARDS, ZeroGradient, zero_gradient_of

STAGES = ("loss and gradient", "the limit", "negative curvature", "the slow directions", "layers", "mini-batches")
_FLOOR = 8.0  # times sharpness times loss; twice would do where the sharpness stayed what it is here
_LAYERS = 8  # the layers with the largest shares are measured alone
_PROBES, _STEPS = 2, 40
_LOWEST = 60  # products for the most negative eigenvalue, to a tenth


@dataclass(eq=False)
class DiagnosisMeasurements:
    """One diagnosis under way: each part measured once, in the order in which the parts need each other."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    clip: float | None
    horizon: int
    quick: bool
    tol: float
    seed: int
    minis: list[Any]
    tell: Callable[[int, int, str], None]  # (done, parts, what begins)
    reasons: dict[str, str] = field(default_factory=dict)
    products: int = 0
    zero_gradient: ZeroGradient = field(default_factory=ZeroGradient)
    not_linear: str | None = None  # why there is no linear limit
    edge: Edge | None = None
    limit: Limit | None = None
    lowest: Measurement | None = None
    pace: Pace = field(default_factory=Pace)
    trial: TrialUpdates | None = None
    location: Location = field(default_factory=Location)
    spread: Spread | None = None
    critical: CriticalSharpness | None = None

    def __post_init__(self) -> None:
        """The gradient and the loss, which everything else is compared with."""
        self.gradient, self.loss = self.objective.gradient(), self.objective.value()

    def measure(self) -> Self:
        """Measure every part, the later ones where the earlier ones let them; return itself."""
        self.zero_gradient = self._zero_gradient()
        self.not_linear, dead = self._not_linear(), self.zero_gradient.flat
        if self.not_linear is None and not dead and self._movable():
            self._tell(1)
            self.edge = edge_of(self.objective, self.optimizer)
            self.limit = limit_now(
                self.objective, self.optimizer, quick=self.quick, tol=self.tol, seed=self.seed, alone=True
            )
            self.products += self.limit.products
        else:
            self.reasons["ratio"] = self.not_linear or (
                "neither gradient nor curvature reaches most of the parameters"
                if dead
                else "no second moments yet, and no gradient to take them from"
            )
        self._tell(2)
        self.lowest = None if dead else self._lowest()
        if self.edge is not None and self.limit is not None:
            self._beside(self.edge, self.limit)
        self.critical = None if dead else self._critical(needed=self.not_linear is not None)
        if self.location.direction is None and not dead:
            self.location = Location(shares=self._plain_shares())
        return self

    def _beside(self, edge: Edge, limit: Limit) -> None:
        """What only an optimizer with a linear limit has: rates, changes, trial updates, its sharp direction."""
        self.pace = self._pace(edge, limit)
        if limit.young and (limit.ratio or 0.0) > 1:
            self.trial = trial_of(self.objective, edge)
        if limit.edge.values[0] > 0:
            direction = direction_of(self.objective, edge, limit, self.gradient)
            self._tell(4)
            self.location = Location(direction, direction.shares, self._layers(edge, direction.shares))
            self._tell(5)
            self.spread = self._spread(edge, limit)

    def _movable(self) -> bool:
        """Whether any coordinate has a unit: where second moments are 0, only the gradient gives one."""
        return bool(self.gradient.any()) or frozen(self.objective, stepped_by(self.objective, self.optimizer)).anywhere

    def _not_linear(self) -> str | None:
        """Why the optimizer has no linear limit; None if it has one."""
        try:
            groups = rule_of(self.optimizer)
        except Unsupported as error:
            return str(error)
        odd = next((group.rule.name for group in groups if not isinstance(group.rule, LinearRule)), None)
        return f"{odd} keeps only signs, so that its step is not linear in any unit" if odd else None

    def _tell(self, stage: int) -> None:
        self.tell(stage, len(STAGES), STAGES[stage])

    def _zero_gradient(self) -> ZeroGradient:
        zero_gradient, found = zero_gradient_of(self.objective, self.gradient, self.seed)
        if found is not None:
            self._count(found)
        return zero_gradient

    def _lowest(self) -> Measurement:
        found = measure(
            self.objective, which="smallest", quick=True, tol=0.1, seed=self.seed, max_products=_LOWEST, vectors=True
        )
        self._count(found)
        return found

    def _pace(self, edge: Edge, limit: Limit) -> Pace:
        """How slow the slow directions are, and the table of changes: both need one rule for all groups."""
        scale, top = one_rule(edge), float(limit.edge.values[0])
        if scale is None or not edge.moving:
            why = "lr = 0" if not edge.moving else "the groups run different rules, so that no one rate describes them"
            self.reasons |= {"slow": why, "what_if": why}
            return Pace(scale)
        self._tell(3)
        decay, penalty = decay_of(self.objective, edge)
        found = slowness(
            self.objective,
            edge,
            scale,
            self.gradient + decay,
            horizon=self.horizon,
            loss=self.loss,
            penalty=penalty,
            top=top,
            probes=_PROBES,
            steps=_STEPS // 2 if self.quick else _STEPS,
            seed=self.seed,
        )
        self.products += found.products
        at_rest = not bool(self.gradient.any())
        changes = what_if(self.objective, limit, scale, found.middle, top, at_rest=at_rest, seed=self.seed)
        return Pace(scale, found, tuple(changes))

    def _layers(self, edge: Edge, named: Mapping[str, float]) -> dict[str, float]:
        """The ratio of each module alone, for those in which most of the sharp direction lies."""
        blocks: dict[str, list[str]] = {}
        for name in named:
            blocks.setdefault(name.rpartition(".")[0], []).append(name)
        ordered = sorted(blocks, key=lambda block: -sum(named[name] for name in blocks[block]))
        if len(ordered) == 1:
            return {}
        if len(ordered) > _LAYERS:
            self.reasons["layers"] = f"the {_LAYERS} layers with the largest shares, of {len(ordered)}"
        options = {"quick": True, "tol": 0.05, "seed": self.seed}
        movable = {entry.name for entry in edge.parameters if entry.moves}
        moving = [block for block in ordered[:_LAYERS] if movable.intersection(blocks[block])]
        return {block: ratio_alone(self.objective, self.optimizer, blocks[block], **options) for block in moving}

    def _spread(self, edge: Edge, limit: Limit) -> Spread | None:
        if len(self.minis) < 2:
            self.reasons["spread"] = "the data is a single batch; give train=, your loader of mini-batches"
            return None
        found = spread_of(self.objective, edge, self.minis, limit, tol=0.05, seed=self.seed)
        self.products += found.products
        return found

    def _plain_shares(self) -> dict[str, float]:
        found = measure(self.objective, quick=True, seed=self.seed, vectors=True)
        self._count(found)
        named = {name: float(part.square().sum()) for name, part in found.named().items()}
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def remaining(self, sharpness: float | None) -> float | None:
        """The loss over that of the same model with all measured parameters at zero; None where zero is no floor.

        A loss that is never negative has |gradient|^2 <= 2 sharpness loss. Where both are 0, with a gradient that is
        lost in rounding and no direction that goes down, nothing is left.
        """
        tiny = torch.finfo(self.objective.dtype).tiny
        nothing = self.objective.value({id(p): torch.zeros_like(p) for p in self.objective.params})
        if sharpness is not None and vec.norm(self.gradient) ** 2 > _FLOOR * sharpness * max(self.loss, tiny):
            return None
        if sharpness is not None and sharpness > 0 and max(abs(self.loss), abs(nothing)) < tiny:
            down = -math.inf if self.lowest is None else float(self.lowest.values[0])
            return None if down < -DOWNWARDS * sharpness else 0.0
        if not (math.isfinite(nothing) and nothing > 0 and self.loss >= 0):
            return None
        return self.loss / nothing

    def _critical(self, *, needed: bool) -> CriticalSharpness | None:
        """The one-step quantity beside the limit, or in its place; what cannot be copied has none."""
        try:
            return critical_sharpness(self.objective, self.optimizer)
        except Unsupported as error:
            if needed:
                raise
            self.reasons["critical"] = str(error)
            return None

    def _count(self, found: Measurement) -> None:
        self.products += int(found.provenance["products"])
