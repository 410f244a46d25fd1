"""measured_orbit: the orbit in which an adaptive rule ends at a fixed lr, beside its predicted width."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.problems import Problem
from eigenstep.rules import LinearRule, Rule
from eigenstep.theory import converging_eps, orbit_half_width
from eigenstep.theory.linear import linear


@dataclass(frozen=True)
class Orbit:
    """How far from the minimum an adaptive rule stays, per coordinate, over the second half of a run.

    widths: (n,) root mean square of each coordinate's distance to the minimum. median, spread: of them, and their 10%
    and 90% quantiles. halves: the median over the earlier and over the later half of that time; for a rule that
    converges the later one would be far smaller. largest: the farthest that any coordinate got, in a burst. predicted:
    half-width of the period-2 orbit, `orbit_half_width`. converging_eps: the eps above which it would converge.
    """

    rule: Rule
    predicted: float
    median: float
    spread: tuple[float, float]
    halves: tuple[float, float]
    largest: float
    converging_eps: float
    updates: int
    widths: Tensor = field(repr=False)

    @property
    def difference(self) -> float:
        """The median width against the predicted one, relative."""
        return self.median / self.predicted - 1

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        names = ("predicted", "median", "spread", "halves", "largest", "difference", "converging_eps", "updates")
        return {
            "rule": repr(self.rule),
            "rules": [self.rule.as_dict()],
            **{name: getattr(self, name) for name in names},
        }


def measured_orbit(rule: Rule, problem: Problem, updates: int = 10_000) -> Orbit:
    """Run an adaptive rule, unmodified, from within lr of a problem's minimum and see where it stays.

    Every coordinate starts half an lr from the minimum, signs alternating, with empty averages. Widths are root mean
    squares, because real Adam is mostly nearer than the orbit and now and then bursts far beyond it.

    Where rounding can park a rule exactly on the minimum (a quadratic's), its width there is 0: put such a minimum at
    the origin, where nothing is lost to rounding.

    Raises Unsupported for a rule that does not adapt or whose unit does not forget, InvalidValue for fewer than 100
    updates, a sharpness that is not positive, or lr = 0.

    >>> from eigenstep.problems import Quadratic
    >>> from eigenstep.rules import RMSProp
    >>> orbit = measured_orbit(RMSProp(lr=0.01), Quadratic((1.0, 4.0), (0.0, 0.0)), updates=2000)
    >>> orbit.predicted, abs(orbit.difference) < 0.1
    (0.005, True)
    """
    if updates < 100:
        raise InvalidValue(f"measured_orbit: updates={updates} must be at least 100, to have an end to look at")
    rule = linear(rule)
    predicted = orbit_half_width(rule)
    needed = converging_eps(rule, float(problem.spectrum().eigenvalues.max()))
    minimum = problem.minimum
    signs = 1 - 2 * (torch.arange(len(minimum)) % 2)
    far = _tail(rule, problem, minimum + signs * float(rule.lr) / 2, updates).sub(minimum)
    widths = far.square().mean(0).sqrt()
    low, middle, high = torch.quantile(widths, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    earlier, later = (part.square().mean(0).sqrt().median() for part in far.chunk(2))
    return Orbit(
        rule=rule,
        predicted=predicted,
        median=middle,
        spread=(low, high),
        halves=(float(earlier), float(later)),
        largest=float(far.abs().max()),
        converging_eps=needed,
        updates=updates,
        widths=widths,
    )


def _tail(rule: LinearRule, problem: Problem, x: Tensor, updates: int) -> Tensor:
    """The points after the second half of the updates, (updates // 2, n)."""
    state, kept = rule.init(x), []
    for t in range(1, updates + 1):
        x, state = rule.step(x, problem.gradient(x), state, t)
        if t > updates - updates // 2:
            kept.append(x)
    return torch.stack(kept)
