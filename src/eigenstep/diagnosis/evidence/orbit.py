"""Where a rule at a fixed lr ends beside a minimum: the orbit's width, the loss on it, and what ends it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eigenstep.bridge import rule_of
from eigenstep.curvature.krylov import Krylov
from eigenstep.curvature.operators import vectors as vec
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.errors import Unsupported
from eigenstep.objective import Objective
from eigenstep.rules import Lion, Rule, SignDescent
from eigenstep.rules.adaptive import AdaptiveRule
from eigenstep.theory import converging_eps, orbit_half_width

_DRAWS = 4  # corners of the orbit, with their opposites; on each every parameter lies as far out as it does on average
_STEPS = 20  # products, for how far the loss here lies above the minimum
_FLAT = 1e-8  # of the largest curvature along the gradient; flatter directions have no minimum near
_UPDATES = 2000  # of a sign rule on a parabola, the second half of which is its cycle
_MEMORIES, _FEW, _MANY = 6, 1000, 4000  # an adaptive rule's on a parabola, in memories of its second moment; limits
_STARTS = 32  # it runs from this many points beside the orbit at once
_BURSTS = 3.0  # half-widths; beyond, bursts are told


@dataclass(frozen=True)
class Motion:
    """A rule at a fixed lr on a parabola: the orbit's half-width, root mean square and largest excursion."""

    half_width: float
    rms: float
    largest: float


@dataclass(frozen=True)
class Orbit:
    """What a rule that does not come to rest at a fixed lr ends in, with all the data in each update.

    - name: the rule's.
    - half_width: per parameter, the widest group's (theory.orbit_half_width).
    - burst: half-widths; the largest excursion of a run on a parabola.
    - lr: that group's.
    - loss: the mean on the orbit, around the minimum of the local quadratic.
    - eps: above which it converges; None where no eps does.
    - own_eps: what it is.
    """

    name: str
    half_width: float
    burst: float
    lr: float
    loss: float
    eps: float | None = None
    own_eps: float | None = None

    def words(self) -> str:
        """The orbit as sentences."""
        ends = "Only an lr that falls to zero ends it"
        if self.eps is not None:
            ends = f"An eps above {self.eps:.3g} (now {self.own_eps:.3g}), or an lr that falls to zero, ends it"
        wide, high = "", ""
        if self.burst > _BURSTS:
            wide = f", lies still at times and bursts to some {self.burst:.0f} times as wide at others"
            high = " on the orbit, and more in a burst"
        return (
            f"At a fixed lr {self.name} does not come to rest: it ends in an orbit of half-width {self.half_width:.3g} "
            f"(lr / {self.lr / self.half_width:.3g}) in each parameter{wide}; the loss is about {self.loss:.2g}"
            f"{high}. {ends}."
        )


def orbit_of(objective: Objective, optimizer: torch.optim.Optimizer, sharpness: float | None) -> Orbit | None:
    """Return the orbit around here that an optimizer ends in at its lr now; None if it converges. In a session.

    sharpness: the Hessian's largest eigenvalue, without which no eps is named. An eps that is large enough for the
    group that needs most ends it for all.
    """
    try:
        groups = [group for group in rule_of(optimizer) if group.rule.lr > 0]
    except Unsupported:
        return None
    moves = {id(group): motion for group in groups if (motion := _motion(group.rule, sharpness)) is not None}
    if not moves:
        return None
    widest = max((group for group in groups if id(group) in moves), key=lambda group: moves[id(group)].half_width)
    held = {id(p): moves[id(group)].rms for group in groups if id(group) in moves for p in group.params}
    needed = [_needed(group.rule, sharpness) for group in groups if id(group) in moves]
    eps = None if None in needed else max(v for v in needed if v is not None)
    rule, motion = widest.rule, moves[id(widest)]
    own = _floor(rule) if eps is not None and isinstance(rule, AdaptiveRule) else None
    burst = motion.largest / motion.half_width
    name, loss = type(rule).__name__, _loss_on(objective, held)
    return Orbit(name, motion.half_width, burst, float(rule.lr), loss, eps, own)


def _loss_on(objective: Objective, held: dict[int, float]) -> float:
    """The mean loss with each parameter (by id) so far on either side of the local quadratic's minimum."""
    here, generator, raised = objective.value(), torch.Generator().manual_seed(0), 0.0
    for _ in range(_DRAWS):
        signs = [torch.randint(2, p.shape, generator=generator).to(p).mul_(2).sub_(1) for p in objective.params]
        corner = objective.join([s * held.get(id(p), 0.0) for s, p in zip(signs, objective.params, strict=True)])
        both = objective.value(objective.at(corner)) + objective.value(objective.at(-corner))
        raised += (both / 2 - here) / _DRAWS
    return here - _above_minimum(objective, here) + raised


def _above_minimum(objective: Objective, loss: float) -> float:
    """How far the loss lies above the least of the local quadratic, 1/2 g' H^-1 g by quadrature; at most the loss."""
    operator = HessianOperator(objective)
    krylov = Krylov(operator, min(_STEPS, operator.size), torch.Generator().manual_seed(0))
    gradient = operator.restrict(objective.gradient())
    if not vec.norm(gradient) or not krylov.add(gradient):
        return 0.0
    while krylov.m < krylov.capacity and krylov.pending:
        krylov.expand(0, krylov.product(0))
    ritz = krylov.ritz()
    curved = ritz.values > _FLAT * float(ritz.values.abs().max())
    per_node: Tensor = torch.where(curved, ritz.mix[0].square() / ritz.values, 0.0)
    found = vec.norm(gradient) ** 2 * float(per_node.sum()) / 2
    return min(found, loss) if loss >= 0 else found


def _motion(rule: Rule, sharpness: float | None) -> Motion | None:
    """How a rule moves on the orbit that it ends in; None if it converges, as far as is known."""
    if isinstance(rule, (SignDescent, Lion)):
        return _cycle(rule)
    try:
        width = orbit_half_width(rule)
    except Unsupported:
        return None
    needed = _needed(rule, sharpness)
    if not isinstance(rule, AdaptiveRule) or not 0 < width < math.inf or needed is None or _floor(rule) >= needed:
        return None
    return _on_parabola(rule, width)


def _on_parabola(rule: AdaptiveRule, width: float) -> Motion:
    """The orbit by running the rule on x^2 / 2, whose curvature it does not feel: held on it first, then let go."""
    eps = {"eps": width * 1e-9} if rule.eps is not None else {"delta": (width * 1e-9) ** 2}
    rule = rule.replace(weight_decay=0.0, **eps)
    betas = getattr(rule, "betas", (0.0, getattr(rule, "alpha", 0.0)))
    updates = round(min(max(_MEMORIES / (1 - float(betas[1])), _FEW), _MANY))
    x = torch.linspace(0.9, 1.1, _STARTS, dtype=torch.float64) * width
    state, seen = rule.init(x), []
    for t in range(1, updates // 2 + 1):
        x = -x
        _, state = rule.step(x, x, state, t)
    x = -x
    for t in range(updates // 2 + 1, 3 * updates // 2 + 1):
        x, state = rule.step(x, x, state, t)
        seen.append(x)
    late = torch.stack(seen[updates // 4 :])
    return Motion(width, float(late.square().mean().sqrt()), float(late.abs().max()))


def _needed(rule: Rule, sharpness: float | None) -> float | None:
    """The eps above which a rule converges; None where there is none, or no sharpness to take it from."""
    if not isinstance(rule, AdaptiveRule) or sharpness is None or sharpness <= 0:
        return None
    decay = 0.0 if rule.decoupled else float(rule.weight_decay)
    return converging_eps(rule, sharpness + decay)


def _floor(rule: AdaptiveRule) -> float:
    """What a unit is at least: eps, or the root of delta."""
    return float(rule.eps) if rule.eps is not None else math.sqrt(float(rule.delta or 0.0))


def _cycle(rule: Rule) -> Motion:
    """The range that a sign rule keeps to on a parabola, whose curvature it does not feel, by running it."""
    x = torch.tensor([float(rule.lr) / 3], dtype=torch.float64)
    state, seen = rule.init(x), []
    for t in range(1, _UPDATES + 1):
        x, state = rule.step(x, x, state, t)
        seen.append(float(x))
    late = torch.tensor(seen[_UPDATES // 2 :], dtype=torch.float64)
    half_width = float(late.max() - late.min()) / 2
    return Motion(half_width, float(late.square().mean().sqrt()), half_width)
