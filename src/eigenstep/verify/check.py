"""check_problem: every predicted limit of a problem beside the measured one, and plain Adam's orbit."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from eigenstep.problems import Problem
from eigenstep.rules import Adam, GradientDescent, HeavyBall, LinearRule, Nesterov, RMSProp, Rule
from eigenstep.spectrum import Spectrum
from eigenstep.theory import max_stable_lr, radii
from eigenstep.verify.limit import MeasuredLimit, measured_factors, measured_limit, sharpest, unit_after
from eigenstep.verify.motion import MakeOptimizer, rule_behind
from eigenstep.verify.orbit import Orbit, measured_orbit

HELD_AFTER = 200  # real updates, after which P is held
FAR_ABOVE = 10.0  # live: eps in units of the gradient at distance |minimum|; sqrt(v) stays below 1e-3 of it
_AROUND, _FACTORS = 0.1, 14  # factors per update are taken at so many lrs within 10% of the limit
GOALS = {"linear": 0.01, "held P": 0.03, "live": 0.01}  # largest relative difference that is accepted


@dataclass(frozen=True)
class Factors:
    """Factors per update along the sharpest direction at lrs (k,) around the limit, predicted and measured, (k,)."""

    lr: Tensor
    predicted: Tensor
    measured: Tensor


@dataclass(frozen=True, eq=False)
class LimitCheck:
    """A predicted and a measured limit. kind: 'linear', 'held P' or 'live'; sharpness: of P^-1/2 H P^-1/2."""

    rule: Rule
    kind: str
    sharpness: float
    predicted: float
    measured: MeasuredLimit
    factors: Factors
    note: str = ""

    @property
    def difference(self) -> float:
        """The measured limit against the predicted one, relative."""
        return self.measured.lr / self.predicted - 1

    @property
    def met(self) -> bool:
        """Whether the difference is within the goal for this kind, and the measurement converged."""
        return self.measured.converged and abs(self.difference) <= GOALS[self.kind]

    def as_dict(self) -> dict[str, Any]:
        """Return the check as plain data for JSON."""
        names = ("kind", "sharpness", "predicted", "difference", "met", "note")
        own = {name: getattr(self, name) for name in names}
        factors = {name: values.tolist() for name, values in vars(self.factors).items()}
        parts = {"measured": self.measured.as_dict(), "factors": factors}
        return {"rule": repr(self.rule), "rules": [self.rule.as_dict()], "name": self.rule.name, **own, **parts}


@dataclass(frozen=True)
class ProblemCheck:
    """A problem's exact spectrum at its minimum, its checked limits, and plain Adam's orbit."""

    problem: Problem
    spectrum: Spectrum
    limits: tuple[LimitCheck, ...]
    orbit: Orbit

    def as_dict(self) -> dict[str, Any]:
        """Return the results as plain data for JSON."""
        s = self.spectrum
        return {
            "problem": self.problem.name,
            "dimension": s.dimension,
            "largest": s.largest,
            "smallest": s.smallest,
            "condition": s.condition,
            "spectrum": s.as_dict(),
            "limits": [limit.as_dict() for limit in self.limits],
            "orbit": self.orbit.as_dict(),
        }


def check_linear(rule: Rule, problem: Problem) -> LimitCheck:
    """Check a rule that does not adapt: predicted from the exact Hessian, measured on the loss itself.

    >>> from eigenstep.problems import Quadratic
    >>> check_linear(GradientDescent(), Quadratic((1.0, 100.0), (0.8, 0.6))).met
    True
    """
    return _check(rule, rule, problem, "linear")


def check_held(rule: LinearRule, problem: Problem, updates: int = HELD_AFTER) -> LimitCheck:
    """Check an adaptive rule with P held as it is after so many real updates from the problem's start."""
    unit = unit_after(rule, problem, updates)
    note = f"P after {updates} updates at lr {rule.lr:g}, {float(unit.min()):.2g} to {float(unit.max()):.2g}"
    return _check(rule, rule, problem, "held P", unit=unit, size=1e-5, note=note)


def check_live(optimizer: Callable[..., torch.optim.Optimizer], problem: Problem) -> LimitCheck:
    """Check an unmodified torch class that takes eps, with eps set far above its sqrt(v), so that P = eps.

    >>> from eigenstep.problems import Quadratic
    >>> check_live(torch.optim.RMSprop, Quadratic((1.0, 100.0), (0.8, 0.6))).met
    True
    """
    sharpness, _ = sharpest(problem.hessian(problem.minimum))
    eps = FAR_ABOVE * sharpness * (float(problem.minimum.norm()) or 1.0)
    make = partial(optimizer, eps=eps)
    unit = torch.full((problem.dimension,), eps, dtype=torch.float64)
    return _check(rule_behind(make), make, problem, "live", unit=unit, note=f"torch's own class, eps {eps:.3g}")


def check_problem(problem: Problem, progress: Callable[[int, int], None] | None = None) -> ProblemCheck:
    """Check gradient descent, heavy ball, Nesterov, RMSProp and Adam (held and live), and measure Adam's orbit.

    `progress` is called with (checks done, checks in all).
    """
    checks = [
        *(partial(check_linear, rule, problem) for rule in (GradientDescent(), HeavyBall(), Nesterov())),
        *(partial(check_held, rule, problem) for rule in (RMSProp(), Adam())),
        *(partial(check_live, optimizer, problem) for optimizer in (torch.optim.RMSprop, torch.optim.Adam)),
    ]
    done = []
    for check in checks:
        done.append(check())
        if progress:
            progress(len(done), len(checks) + 1)
    orbit = measured_orbit(Adam(), problem)
    if progress:
        progress(len(checks) + 1, len(checks) + 1)
    return ProblemCheck(problem, problem.spectrum(), tuple(done), orbit)


def _check(
    rule: Rule,
    method: Rule | MakeOptimizer,
    problem: Problem,
    kind: str,
    *,
    unit: Tensor | None = None,
    size: float = 1e-4,
    note: str = "",
) -> LimitCheck:
    """Predict from the rule and the exact (preconditioned) Hessian; measure by running the method."""
    sharpness, _ = sharpest(problem.hessian(problem.minimum), unit)
    limit = max_stable_lr(rule, sharpness)
    lr = limit * torch.linspace(1 - _AROUND, 1 + _AROUND, _FACTORS, dtype=torch.float64)
    predicted = radii(rule.replace(lr=lr), torch.tensor([sharpness], dtype=torch.float64)).squeeze(-1)
    return LimitCheck(
        rule=rule,
        kind=kind,
        sharpness=sharpness,
        predicted=limit,
        measured=measured_limit(method, problem, unit=unit, size=size),
        factors=Factors(lr, predicted, measured_factors(method, problem, lr, unit=unit)),
        note=note,
    )
