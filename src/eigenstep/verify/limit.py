"""measured_limit: the largest lr from which a method still returns to a minimum, found by running it."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, Unsupported, refuse_share
from eigenstep.problems import Problem
from eigenstep.rules import LinearRule, Rule
from eigenstep.theory.limits import momentum_of
from eigenstep.verify.fate import LEAVES, RETURNS, UNDECIDED, Fates, factors, follow
from eigenstep.verify.motion import MakeOptimizer, Motion, RuleMotion, TorchMotion, rule_behind

_WIDEST, _FIRST = (0.5, 100.0), 12  # first round: so many lrs in this range, in units of 1 / curvature
_INSIDE = 4  # lrs tried inside the bracket in each later round
_ROUNDS = 12


@dataclass(frozen=True)
class TriedLr:
    """One lr that was tried, and its fate: -1 returns, 0 undecided, 1 diverges."""

    lr: float
    fate: int


@dataclass(frozen=True)
class MeasuredLimit:
    """The edge found by running: between `low`, the largest lr that returns, and `high`, the smallest that diverges.

    lr: the middle of the bracket. updates: gradient evaluations spent, all lanes. trials: every lr tried.
    converged: the bracket is as narrow as was asked for. how: the procedure, in words.
    """

    lr: float
    low: float
    high: float
    updates: int
    converged: bool
    how: str
    trials: tuple[TriedLr, ...] = field(repr=False, default=())

    @property
    def uncertainty(self) -> float:
        """Half the bracket's width, relative to lr."""
        return (self.high - self.low) / (self.high + self.low)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON; a trial as [lr, fate]."""
        names = ("lr", "low", "high", "uncertainty", "updates", "converged", "how")
        own = {name: getattr(self, name) for name in names}
        return {**own, "trials": [[trial.lr, trial.fate] for trial in self.trials]}


def measured_limit(
    method: Rule | MakeOptimizer,
    problem: Problem,
    *,
    unit: Tensor | None = None,
    size: float = 1e-4,
    tolerance: float = 2e-3,
    settle: int | None = None,
) -> MeasuredLimit:
    """Find the largest stable lr of a method at a problem's minimum by running it on the loss itself.

    method: a linear rule (its lr is ignored); an adaptive one with `unit` (n,), its P held fixed; or a function that
    makes a torch optimizer from param groups, each with its own lr, which then runs unmodified (its `unit`, if given,
    only serves to find the sharpest direction). Every run starts at rest at minimum +- size * |minimum| along the
    sharpest direction of P^-1 H. An lr returns if both signs do: the distance shrinks between T and 2T updates. It
    diverges if either does: the distance has grown tenfold, after the first `settle` updates, by default
    10 / (1 - momentum), in which a stable method may overshoot. Further out a real loss may stay bounded; that is
    leaving all the same. Near the edge an overshoot takes long to fade, so that with momentum the edge is found up to
    .1% low. The bracket starts two decades wide, without any prediction, and is narrowed to a relative
    width of `tolerance`; T grows as it narrows, since close to the edge an error changes slowly.

    Raises InvalidValue for weight decay in the rule (it moves the minimum; put it into the loss), an adaptive rule
    without unit, a unit that is not positive, or no edge in the range; Unsupported for a rule that is not linear.

    >>> from eigenstep.problems import Quadratic
    >>> from eigenstep.rules import HeavyBall
    >>> found = measured_limit(HeavyBall(), Quadratic((1.0, 100.0), (0.8, 0.6)))
    >>> found.low < 0.038 < found.high, found.uncertainty < 0.002, found.converged
    (True, True, True)
    """
    refuse_share("measured_limit", "tolerance", tolerance)
    refuse_share("measured_limit", "size", size)
    runs = _Runs(method, problem, unit, size)
    settle = runs.overshoot() if settle is None else settle
    trials: dict[float, TriedLr] = {}
    spent = 0
    low, high = (edge / runs.curvature() for edge in _WIDEST)
    ratio = (high / low) ** (1 / (_FIRST - 1))
    lrs = [low * ratio**i for i in range(_FIRST)]
    for _ in range(_ROUNDS):
        updates = max(settle, math.ceil(1 / (lrs[1] / lrs[0] - 1)))
        lr = torch.tensor(lrs, dtype=torch.float64).repeat(2)
        found = follow(runs.motion(lr, len(lrs)), problem.gradient, problem.minimum, updates, settle)
        trials.update(_joined(lrs, found))
        spent += int(found.updates.sum())
        low, high = _bracket(trials, problem.name)
        if high - low <= tolerance * low:
            break
        lrs = [low + (high - low) * i / (_INSIDE + 1) for i in range(1, _INSIDE + 1)]
    return MeasuredLimit(
        lr=(low + high) / 2,
        low=low,
        high=high,
        updates=spent,
        converged=high - low <= tolerance * low,
        how=f"{len(trials)} lrs, run on the loss from minimum +- {size:g} |minimum| along the sharpest direction",
        trials=tuple(trials[lr] for lr in sorted(trials)),
    )


def measured_factors(
    method: Rule | MakeOptimizer, problem: Problem, lr: Tensor, *, unit: Tensor | None = None, updates: int = 200
) -> Tensor:
    """Return the factor per update by which an error along the sharpest direction changes, at each lr (B,).

    method and unit as in `measured_limit`, and raises as it does. Each run starts 1e-6 |minimum| from the minimum, far
    enough below its bends that even a quick growth is seen over several updates.

    >>> from eigenstep.problems import Quadratic
    >>> from eigenstep.rules import GradientDescent
    >>> lr = torch.tensor([0.018, 0.021], dtype=torch.float64)
    >>> measured_factors(GradientDescent(), Quadratic((1.0, 100.0), (0.8, 0.6)), lr).round(decimals=6).tolist()
    [0.8, 1.1]
    """
    motion = _Runs(method, problem, unit, size=1e-6).motion(lr, len(lr))
    return factors(motion, problem.gradient, problem.minimum, updates)


class _Runs:
    """Runs of one method on one problem, each from a small error along the sharpest direction."""

    def __init__(self, method: Rule | MakeOptimizer, problem: Problem, unit: Tensor | None, size: float) -> None:
        self.method = _checked(method, unit) if isinstance(method, Rule) else method
        sharpness, direction = sharpest(problem.hessian(problem.minimum), unit)
        if sharpness <= 0:
            raise InvalidValue(f"{problem.name}: the sharpest curvature at its minimum, {sharpness:.4g}, sets no limit")
        self.problem, self.unit = problem, unit
        self.offset = size * (float(problem.minimum.norm()) or 1.0) * direction

    def motion(self, lr: Tensor, plus: int) -> Motion:
        """A lane for each lr: the first `plus` begin on one side of the minimum, the others on the other."""
        sides = torch.where(torch.arange(len(lr)) < plus, 1.0, -1.0).to(torch.float64)
        points = self.problem.minimum + sides.unsqueeze(-1) * self.offset
        if isinstance(self.method, LinearRule):
            return RuleMotion(self.method, lr, points, self.unit)
        return TorchMotion(self.method, lr, points)

    def overshoot(self) -> int:
        """Updates in which the memory of a start at rest fades: 10 / (1 - momentum), none without momentum."""
        rule = self.method if isinstance(self.method, LinearRule) else rule_behind(self.method)
        momentum = momentum_of(_checked(rule, torch.ones(1) if rule.adaptive else None))
        return 0 if momentum is None else math.ceil(10 / (1 - float(momentum)))

    def curvature(self) -> float:
        """v'Hv / v'Pv from two gradients: the natural scale of 1 / lr."""
        minimum, offset = self.problem.minimum, self.offset
        slope = (self.problem.gradient(minimum + offset) - self.problem.gradient(minimum - offset)) / 2
        weighted = offset if self.unit is None else self.unit * offset
        return float(slope @ offset) / float(offset @ weighted)


def sharpest(hessian: Tensor, unit: Tensor | None = None) -> tuple[float, Tensor]:
    """Return the largest eigenvalue of P^-1/2 H P^-1/2 and its direction in x, the eigenvector of P^-1 H of length 1.

    >>> sharpest(torch.diag(torch.tensor([1.0, 9.0])))
    (9.0, tensor([0., 1.]))
    """
    root = torch.ones(len(hessian), dtype=hessian.dtype) if unit is None else unit.sqrt()
    values, vectors = torch.linalg.eigh(hessian / root / root.unsqueeze(-1))
    direction = vectors[:, -1] / root
    return float(values[-1]), direction / direction.norm()


def unit_after(rule: LinearRule, problem: Problem, updates: int = 200) -> Tensor:
    """Return P (n,), the unit of an adaptive rule after real updates on the problem from its start.

    >>> from eigenstep.problems import Quadratic
    >>> from eigenstep.rules import RMSProp
    >>> bool((unit_after(RMSProp(), Quadratic((1.0, 100.0))) > 0).all())
    True
    """
    x = problem.start
    state = rule.init(x)
    for t in range(1, updates + 1):
        x, state = rule.step(x, problem.gradient(x), state, t)
    return torch.as_tensor(rule.unit(state.scales, updates)).expand_as(x)


def _checked(rule: Rule, unit: Tensor | None) -> LinearRule:
    """The rule, if measuring makes sense."""
    name = type(rule).__name__
    if not isinstance(rule, LinearRule):
        raise Unsupported(f"{name} has no stability limit: its step is not linear in the gradient; race it instead")
    if torch.as_tensor(rule.weight_decay).ne(0).any():
        raise InvalidValue(f"{name}: weight_decay moves the minimum; measure with the decay as a part of the loss")
    if rule.adaptive and unit is None:
        raise InvalidValue(
            f"{name} adapts: give the unit= to hold, or a function that makes the torch optimizer, to run it live"
        )
    if unit is not None and not rule.adaptive:
        raise InvalidValue(f"unit= was given, but {name} does not adapt; leave it out")
    if unit is not None and not bool(((unit > 0) & unit.isfinite()).all()):
        raise InvalidValue(f"{name}: every entry of unit= must be positive and finite")
    return rule.replace(lr=1.0)


def _joined(lrs: list[float], found: Fates) -> dict[float, TriedLr]:
    """Both signs of each lr together: diverges if either does, returns if both return."""
    fates = found.fate.reshape(2, -1)
    joined = torch.where((fates == LEAVES).any(0), LEAVES, torch.where((fates == RETURNS).all(0), RETURNS, UNDECIDED))
    return {lr: TriedLr(lr, int(fate)) for lr, fate in zip(lrs, joined, strict=True)}


def _bracket(trials: dict[float, TriedLr], name: str) -> tuple[float, float]:
    """The smallest lr that diverges, and the largest below it that returns."""
    gone = [lr for lr, trial in trials.items() if trial.fate == LEAVES]
    if not gone:
        raise InvalidValue(f"{name}: no lr up to {max(trials):.4g} leaves the minimum; the method has no edge there")
    back = [lr for lr, trial in trials.items() if trial.fate == RETURNS and lr < min(gone)]
    if not back:
        raise InvalidValue(f"{name}: no lr from {min(trials):.4g} on returns to the minimum")
    return max(back), min(gone)
