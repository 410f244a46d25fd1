"""What a diagnosis measures, part by part, the verdict's first, inside one session and the time allowed."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch

from eigenstep.bridge import rule_of
from eigenstep.curvature import Measurement, measure
from eigenstep.curvature.lanczos import Aim
from eigenstep.curvature.operators.preconditioned import stepped_by
from eigenstep.curvature.operators.unit import frozen
from eigenstep.diagnosis.allowance import Allowance
from eigenstep.diagnosis.evidence.direction import LAYERS, Location, direction_of, layers_in, layers_of
from eigenstep.diagnosis.evidence.minibatches import Spread, spread_of
from eigenstep.diagnosis.evidence.play import SETTLED, Play
from eigenstep.diagnosis.evidence.rates import Scale, along_of, one_rule, slowness
from eigenstep.diagnosis.evidence.what_if import Pace, what_if
from eigenstep.diagnosis.trials import Trials
from eigenstep.errors import Unsupported
from eigenstep.objective import Objective
from eigenstep.progress import FORWARD, GRADIENT
from eigenstep.rules import LinearRule
from eigenstep.stability.critical import CriticalSharpness, critical_sharpness
from eigenstep.stability.joint_limit import Edge, edge_of
from eigenstep.stability.limit import limit_now
from eigenstep.stability.result import Limit
from eigenstep.stability.zero_gradient import ZeroGradient, zero_gradient_of

STAGES = (
    *("loss and gradient", "the next updates, on copies", "the limit", "one update", "negative curvature"),
    *("along the gradient", "mini-batches", "layers", "the slow directions"),
)
_PROBES, _STEPS = 2, 40
_LOWEST = 60  # products for the most negative eigenvalue, to a tenth
_PASSES = 20  # forward passes that the one-step quantity usually takes
_ALONE = 15  # products of a layer alone, to 5%


@dataclass(eq=False)
class DiagnosisMeasurements:
    """One diagnosis under way: each part measured once, in the order in which the parts need each other.

    trials: of the optimizer's next updates, its session entered; None where nothing is to be played.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    allowance: Allowance
    clip: float | None
    horizon: int
    quick: bool
    tol: float
    seed: int
    lr: float  # the peak that is played towards
    minis: list[Any] = field(default_factory=list)
    tell: Callable[[int, int, str], None] = lambda *_: None  # (done, parts, what begins)
    recommended: float | None = None
    trials: Trials | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    products: int = 0
    zero_gradient: ZeroGradient = field(default_factory=ZeroGradient)
    nothing: float = math.nan  # the loss with all measured parameters at zero
    not_linear: str | None = None  # why there is no linear limit
    edge: Edge | None = None
    scale: Scale | None = None
    limit: Limit | None = None
    lowest: Measurement | None = None
    pace: Pace = field(default_factory=Pace)
    location: Location = field(default_factory=Location)
    spread: Spread | None = None
    critical: CriticalSharpness | None = None

    def __post_init__(self) -> None:
        """The gradient and the loss, which everything else is compared with."""
        began = time.perf_counter()
        self.gradient = self.objective.gradient()
        self.allowance.forward = (time.perf_counter() - began) / GRADIENT
        self.loss = self.objective.value()

    def measure(self) -> Self:
        """Measure what the verdict rests on, the later parts where the earlier ones, and the time, let them."""
        self.judge()
        dead, edge, limit = self.zero_gradient.flat, self.edge, self.limit
        if self.trials is not None:
            self.trials.lower()
        self._tell(3)
        if not dead:
            self.critical = self._critical()
        if edge is not None and limit is not None and limit.edge.values[0] > 0:
            if self._fits("direction", products=1.0, passes=12 * FORWARD):
                direction = direction_of(self.objective, edge, limit, self.gradient)
                self.location = Location(direction, direction.shares)
        elif not dead and self._fits("shares", products=Aim(quick=True).expected):
            self.location = Location(shares=self._plain_shares())
        self._tell(4)
        if not dead and self._fits("lowest", products=_LOWEST):
            self.lowest = self._lowest()
        if edge is not None and limit is not None:
            self._tell(5)
            self.pace = self._pace(edge, limit)
            self._tell(6)
            self.spread = self._spread(edge, limit) if limit.edge.values[0] > 0 else None
        return self

    def finish(self) -> None:
        """Measure what only readers of details ask for, the slow directions last; name what there was no time for."""
        if self.edge is not None and self.limit is not None:
            self._tell(7)
            if self.location.direction is not None:
                blocks = layers_in(self.location.shares)
                if len(blocks) > LAYERS:
                    self.reasons["layers"] = f"the {LAYERS} layers with the largest shares, of {len(blocks)}"
                if len(blocks) > 1 and self._fits("layers", products=min(len(blocks), LAYERS) * _ALONE):
                    layers = layers_of(self.objective, self.optimizer, self.edge, blocks, self.seed)
                    self.location = replace(self.location, layers=layers)
            along, steps = self.pace.along, _STEPS // 2 if self.quick else _STEPS
            if along is not None and self.pace.scale is not None and self._fits("slow", products=_PROBES * steps):
                self._tell(8)
                top = float(self.limit.edge.values[0])
                slow = slowness(self.edge, self.pace.scale, along, top=top, probes=_PROBES, steps=steps, seed=self.seed)
                self.products += slow.products - along.products
                self.pace = replace(self.pace, slow=slow)
        self.reasons |= self.allowance.dropped

    @property
    def play(self) -> Play | None:
        """The optimizer's next updates on copies."""
        return None if self.trials is None else self.trials.play

    @property
    def scaled(self) -> str | None:
        """Why the objective's limit is not that of the user's loop; None if it is, as far as is known."""
        return None if self.trials is None else self.trials.scaled

    @property
    def instead(self) -> Play | None:
        """Those at another lr, that does better."""
        return None if self.trials is None else self.trials.instead

    def judge(self) -> None:
        """Measure what the verdict needs first: the gradient's reach, the play and the limit."""
        self.zero_gradient = self._zero_gradient()
        self.nothing = self.objective.value({id(p): torch.zeros_like(p) for p in self.objective.params})
        self.not_linear, dead = self._not_linear(), self.zero_gradient.flat
        if not dead and self.trials is not None:
            self._tell(1)
            self.trials.run(self.nothing)
            self.products += self.trials.products
            self.reasons |= self.trials.reasons
        if dead or self.not_linear or self.scaled or not self._movable():
            no_unit = "no second moments yet, and no gradient to take them from"
            why = "neither gradient nor curvature reaches most of the parameters" if dead else no_unit
            self.reasons["ratio"] = self.not_linear or self.scaled or why
            return
        self._tell(2)
        try:
            self.edge = edge_of(self.objective, self.optimizer)
            self.limit = self._limit(self.edge)
        except Unsupported as error:  # none yet, as of a fresh RAdam, or none at all
            if self.play is None:
                raise
            self.edge, self.reasons["ratio"] = None, str(error)

    def _limit(self, edge: Edge) -> Limit | None:
        """The limit, its certificate, the plain sharpness and each group alone, as far as there is time."""
        if not self._fits("ratio", products=Aim(quick=True).expected):
            return None
        certain = self.quick or self._fits("certificate", products=Aim().expected)
        each, groups = Aim(quick=not certain).expected, len(self.optimizer.param_groups)
        plain = edge.adaptive or not edge.uniform
        sharpness = not plain or self._fits("sharpness", products=2 * each)
        alone = groups == 1 or self._fits("groups alone", products=(1 + plain + groups) * each)
        asked: dict[str, Any] = {"tol": self.tol, "seed": self.seed, "sharpness": sharpness, "alone": alone}
        found = limit_now(self.objective, self.optimizer, quick=self.quick or not certain, **asked)
        self.products += found.products
        self.allowance.learn(found.edge)
        return found

    def _fits(self, part: str, *, products: float = 0.0, passes: float = 0.0) -> bool:
        return self.allowance.allows(part, products=products, passes=passes)

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
            self.products += self.allowance.learn(found)
        return zero_gradient

    def _lowest(self) -> Measurement:
        found = measure(
            self.objective, which="smallest", quick=True, tol=0.1, seed=self.seed, max_products=_LOWEST, vectors=True
        )
        self.products += self.allowance.learn(found)
        return found

    def _pace(self, edge: Edge, limit: Limit) -> Pace:
        """How the gradient lies in the spectrum, which needs one rule for all groups, and the table of changes."""
        scale, top = one_rule(edge), float(limit.edge.values[0])
        steps = _STEPS // 2 if self.quick else _STEPS
        along = None
        if scale is None or not edge.moving:
            why = "lr = 0" if not edge.moving else "the groups run different rules, so that no one rate describes them"
            self.reasons["slow"] = why
            scale = scale if edge.moving else None
        elif self._fits("along", products=steps):
            along = along_of(
                self.objective,
                edge,
                scale,
                self.gradient,
                horizon=self.horizon,
                loss=self.loss,
                top=top,
                steps=steps,
                seed=self.seed,
            )
            self.products += along.products
        return Pace(scale, along)

    def table(self) -> None:
        """Make the table of changes, with what was tried in the lr's place."""
        edge, limit, scale = self.edge, self.limit, self.pace.scale
        if edge is None or limit is None:
            return
        if not edge.moving:
            self.reasons["what_if"] = "lr = 0"
            return
        adam = bool(self.gradient.any()) and not edge.adaptive
        changes = what_if(
            self.objective,
            limit,
            scale,
            None if self.pace.along is None else self.pace.along.middle,
            settled=self.settled(limit),
            failed=self.play.lr if self.play is not None and self.play.fails else None,
            instead=None if self.instead is None else self.instead.lr,
            recommended=self.recommended,
            adam=adam and self._fits("Adam in its place", products=Aim(quick=True).expected),
            seed=self.seed,
        )
        self.pace = replace(self.pace, changes=tuple(changes))

    def settled(self, limit: Limit) -> float | None:
        """The largest stable lr once second moments have settled, where they are young now and a play has seen it."""
        last = None if self.play is None or not limit.young or self.play.fails else self.play.settled
        return None if last is None or last[0] < SETTLED else last[2]

    def _spread(self, edge: Edge, limit: Limit) -> Spread | None:
        if len(self.minis) < 2:
            self.reasons["spread"] = "the data is a single batch; give train=, your loader of mini-batches"
            return None
        if not self._fits("spread", products=len(self.minis) * _ALONE / len(self.objective.weights)):
            return None
        found = spread_of(self.objective, edge, self.minis, limit, tol=0.05, seed=self.seed)
        self.products += found.products
        return found

    def _plain_shares(self) -> dict[str, float]:
        found = measure(self.objective, quick=True, seed=self.seed, vectors=True)
        self.products += self.allowance.learn(found)
        named = {name: float(part.square().sum()) for name, part in found.named().items()}
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def _critical(self) -> CriticalSharpness | None:
        """The one-step quantity beside the limit, or in its place; what cannot be copied has none."""
        if self.scaled:
            self.reasons["critical"] = self.scaled
            return None
        needed = self.not_linear is not None and self.play is None
        if not needed and not self._fits("critical", passes=_PASSES * FORWARD + GRADIENT):
            return None
        try:
            return critical_sharpness(self.objective, self.optimizer)
        except Unsupported as error:
            if self.not_linear is not None:
                raise
            self.reasons["critical"] = str(error)
            return None
