"""Where a rule at a fixed lr ends beside a minimum: the orbit's width, the loss on it, and what ends it."""

import math
from dataclasses import dataclass

import torch

from eigenstep.bridge import rule_of
from eigenstep.errors import Unsupported
from eigenstep.objective import Objective
from eigenstep.rules import Lion, Rule, SignDescent
from eigenstep.rules.adaptive import AdaptiveRule
from eigenstep.theory import converging_eps, orbit_half_width

_DRAWS = 4  # corners of the orbit, on each of which every parameter lies its half-width to one side
_UPDATES = 2000  # of a sign rule on a parabola, the second half of which is its cycle


@dataclass(frozen=True)
class Orbit:
    """What a rule that does not come to rest at a fixed lr ends in, with all the data in each update.

    half_width: per parameter, the widest group's (theory.orbit_half_width; real runs burst around it). lr: that
    group's. loss: the mean over some corners of the orbit around here. eps: above which it converges, None where no eps
    does; own_eps: what it is. name: the rule's.
    """

    name: str
    half_width: float
    lr: float
    loss: float
    eps: float | None = None
    own_eps: float | None = None

    def words(self) -> str:
        """The orbit as sentences."""
        ends = "Only an lr that falls to zero ends it"
        wide, high = "", ""
        if self.eps is not None:
            ends = f"An eps above {self.eps:.3g} (now {self.own_eps:.3g}), or an lr that falls to zero, ends it"
            wide = ", lies still at times and bursts to some ten times as wide at others"
            high = " on the orbit, and a hundred times that in a burst"
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
    widths = {id(group): width for group in groups if (width := _half_width(group.rule, sharpness)) is not None}
    if not widths:
        return None
    widest = max((group for group in groups if id(group) in widths), key=lambda group: widths[id(group)])
    held = {id(p): widths.get(id(group), 0.0) for group in groups for p in group.params}
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(_DRAWS):
        corner = [
            torch.randint(2, p.shape, generator=generator).to(p).mul_(2).sub_(1) * held.get(id(p), 0.0)
            for p in objective.params
        ]
        losses.append(objective.value(objective.at(objective.join(corner))))
    needed = [_needed(group.rule, sharpness) for group in groups if id(group) in widths]
    eps = None if None in needed else max(v for v in needed if v is not None)
    rule = widest.rule
    own = None if eps is None else _floor(rule)
    return Orbit(type(rule).__name__, widths[id(widest)], float(rule.lr), sum(losses) / len(losses), eps, own)


def _half_width(rule: Rule, sharpness: float | None) -> float | None:
    """The half-width of the orbit that a rule ends in; None if it converges, as far as is known."""
    if isinstance(rule, (SignDescent, Lion)):
        return _cycle(rule)
    try:
        width = orbit_half_width(rule)
    except Unsupported:
        return None
    needed = _needed(rule, sharpness)
    return None if not 0 < width < math.inf or needed is None or _floor(rule) >= needed else width


def _needed(rule: Rule, sharpness: float | None) -> float | None:
    """The eps above which a rule converges; None where there is none, or no sharpness to take it from."""
    if not isinstance(rule, AdaptiveRule) or sharpness is None or sharpness <= 0:
        return None
    decay = 0.0 if rule.decoupled else float(rule.weight_decay)
    return converging_eps(rule, sharpness + decay)


def _floor(rule: Rule) -> float:
    """What a unit is at least: eps, or the root of delta."""
    assert isinstance(rule, AdaptiveRule)
    return float(rule.eps) if rule.eps is not None else math.sqrt(float(rule.delta or 0.0))


def _cycle(rule: Rule) -> float:
    """Half the range that a sign rule keeps to on a parabola, whose curvature it does not feel, by running it."""
    x = torch.tensor([float(rule.lr) / 3], dtype=torch.float64)
    state, seen = rule.init(x), []
    for t in range(1, _UPDATES + 1):
        x, state = rule.step(x, x, state, t)
        seen.append(float(x))
    late = seen[_UPDATES // 2 :]
    return (max(late) - min(late)) / 2
