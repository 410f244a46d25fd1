"""tune: the settings of a rule that are best on a spectrum, for the asymptotic rate or for the count."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.rules import LinearRule, Rule
from eigenstep.spectrum import Spectrum
from eigenstep.theory.answers import effective_eigenvalues
from eigenstep.theory.limits import frozen_limit, momentum_of, with_momentum
from eigenstep.theory.linear import linear, radii
from eigenstep.theory.propagate import components, count, flow, refuse_tolerances
from eigenstep.theory.tuned import Tuning
from eigenstep.theory.windows import sooner

_POINTS = 65  # settings tried per round of a search
_PLATEAU = 1e-9  # a rate counts as best when within this of the smallest


def tune(
    rule: Rule,
    spectrum: Spectrum,
    *,
    over: str | Sequence[str] = "lr",
    for_steps: bool = False,
    start: Any = None,
    loss: float | None = None,
    radius: float | None = None,
    unit: float | Tensor | None = None,
    point: str = "iterate",
) -> Tuning:
    """Find the lr, or with over='momentum' the momentum and its lr, that is best for the rule on this spectrum.

    Minimises R(lr) = max_i rho(M(lr, lambda_i)) by repeated zooming, which needs no formula for the rule; with
    `for_steps` the number of updates until the error stays within the tolerance, from `start` (see `predict`). Where a
    whole interval of lr is equally good (heavy ball at a large momentum), its middle is returned. Momentum is the field
    of that name, or the first beta; a best momentum is always one with its lr: over=('lr', 'momentum') says the same.

    Raises InvalidValue for a spectrum that does not cover both ends, or has a direction that no lr makes contract,
    and for `for_steps` without start and tolerance or with an adaptive rule; Unsupported for a rule that is not
    linear.

    >>> from eigenstep.rules import GradientDescent
    >>> best = tune(GradientDescent(), Spectrum.from_eigenvalues([1.0, 5.0]))
    >>> round(best.lr, 9), round(best.rate, 9)
    (0.333333333, 0.666666667)
    """
    wanted = (over,) if isinstance(over, str) else tuple(over)
    if wanted not in (("lr",), ("momentum",), ("lr", "momentum"), ("momentum", "lr")):
        raise InvalidValue(f"over={over!r} must be 'lr', or 'momentum' for the momentum and its lr")
    rule = linear(rule).replace(lr=1.0)
    if rule.lanes:
        raise InvalidValue(
            f"{type(rule).__name__}: one setting at a time here, not a batch of shape {tuple(rule.lanes)}"
        )
    values = effective_eigenvalues(rule, spectrum, unit)
    if spectrum.covers not in ("all", "ends"):
        raise InvalidValue(
            f"the spectrum covers {spectrum.covers!r}; the best lr needs both its largest and its smallest eigenvalue"
        )
    search = _Search(rule, values)
    momentum = search.momentum() if "momentum" in wanted else momentum_of(rule)
    if momentum is not None:
        rule = with_momentum(rule, momentum)
    lr, interval, limit = search.lr(momentum)
    steps = None
    if for_steps:
        lr, momentum, steps = _fewest(rule, spectrum, search, wanted, (lr, momentum), start, loss, radius, point)
        if momentum is not None:
            rule = with_momentum(rule, momentum)
        interval = (lr, lr)
    tuned = rule.replace(lr=lr)
    return Tuning(
        rule=tuned,
        lr=lr,
        momentum=None if momentum is None else float(momentum),
        rate=float(radii(tuned, search.values).max()),
        lr_interval=interval,
        lr_limit=limit,
        steps=steps,
        evaluations=search.evaluations,
    )


class _Search:
    """Zooming searches over lr and momentum on one set of effective eigenvalues."""

    def __init__(self, rule: LinearRule, values: Tensor) -> None:
        self.rule, self.values, self.evaluations = rule, values, 0
        ordered = values.sort().values
        # both ends, and up to 62 in between for rules whose spectral radius is not largest at an end
        self._probe = ordered[torch.linspace(0, len(ordered) - 1, min(64, len(ordered))).round().long()]

    def limits(self, momentum: Tensor | float | None) -> Tensor:
        """The largest stable lr at each momentum; InvalidValue where no lr makes every direction contract."""
        rule = self.rule if momentum is None else with_momentum(self.rule, momentum)
        limits = frozen_limit(rule, self._probe[-1])
        if not bool((limits.isfinite() & (limits > 0)).all()):
            raise InvalidValue(
                f"no best lr: the largest eigenvalue, {float(self._probe[-1]):.4g}, sets no limit; it must be positive"
            )
        return limits

    def rates(self, lr: Tensor, momentum: Tensor | float | None) -> Tensor:
        """R at each lr (..., P); momentum has the shape (..., 1), or is one number."""
        self.evaluations += lr.numel()
        rule = self.rule if momentum is None else with_momentum(self.rule, momentum)
        return radii(rule.replace(lr=lr), self._probe).amax(-1)

    def best(self, momentum: Tensor | float | None) -> tuple[Tensor, Tensor, Tensor]:
        """For momenta of shape (M,), or one number: the best lr, its rate and the limit, each (M,) or ()."""
        top = self.limits(momentum)
        column = momentum.unsqueeze(-1) if isinstance(momentum, Tensor) else momentum
        low, high = (top * 1e-6).log(), top.log()
        fractions = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
        while bool(((high - low) > 1e-15 * high.abs().clamp(min=1)).any()):
            tried = low.unsqueeze(-1) + (high - low).unsqueeze(-1) * fractions
            found = self.rates(tried.exp(), column)
            at = found.argmin(-1, keepdim=True)
            best = tried.gather(-1, at).squeeze(-1).exp()
            rate = found.gather(-1, at).squeeze(-1)
            narrower = tried.gather(-1, (at - 1).clamp(min=0)), tried.gather(-1, (at + 1).clamp(max=_POINTS - 1))
            if bool((narrower[1].squeeze(-1) - narrower[0].squeeze(-1) >= high - low).all()):
                break
            low, high = narrower[0].squeeze(-1), narrower[1].squeeze(-1)
        return best, rate, top

    def momentum(self) -> float:
        """The momentum whose best lr gives the smallest rate, by zooming in -log(1 - momentum)."""
        if momentum_of(self.rule) is None:
            raise InvalidValue(f"{type(self.rule).__name__} has no momentum to tune; leave over='lr'")
        low, high = 0.0, -math.log(1e-7)
        while high - low > 1e-12:
            tried = torch.linspace(low, high, 33, dtype=torch.float64)
            at = int(self.best(-torch.expm1(-tried))[1].argmin())
            narrower = float(tried[max(at - 1, 0)]), float(tried[min(at + 1, 32)])
            if narrower[1] - narrower[0] >= high - low:
                break
            low, high = narrower
        return -math.expm1(-(low + high) / 2)

    def lr(self, momentum: Tensor | float | None) -> tuple[float, tuple[float, float], float]:
        """The best lr at one momentum, the interval of equally good ones, and the limit."""
        best, rate, top = (float(value) for value in self.best(momentum))
        if rate >= 1:
            raise InvalidValue(
                f"no lr makes every direction contract (best rate {rate:.6g}): the smallest eigenvalue is "
                f"{float(self._probe[0]):.4g}; flat or negative directions need weight decay"
            )

        def edge(outside: float) -> float:
            inside, fractions = best, torch.linspace(0, 1, _POINTS, dtype=torch.float64)
            for _ in range(10):  # 64^10 = 2^60, beyond rounding
                tried = inside + (outside - inside) * fractions
                good = self.rates(tried, momentum) <= rate + _PLATEAU
                last = int(good[1:].cumprod(0).sum())  # equally good up to here, the end outside never being so
                inside, outside = float(tried[last]), float(tried[min(last + 1, _POINTS - 1)])
            return inside

        interval = (edge(0.0), edge(top))
        plateau = interval[1] - interval[0] > 1e-4 * best
        return (sum(interval) / 2 if plateau else best), interval, top


def _fewest(
    rule: LinearRule,
    spectrum: Spectrum,
    search: _Search,
    wanted: tuple[str, ...],
    begin: tuple[float, float | Tensor | None],
    start: Any,
    loss: float | None,
    radius: float | None,
    point: str,
) -> tuple[float, float | Tensor | None, int]:
    """The lr (and momentum) with the fewest updates until the error stays within the tolerance."""
    if rule.adaptive:
        raise InvalidValue(
            f"{type(rule).__name__}: its count has no closed form, because P moves; simulate a range of lr"
        )
    if start is None or (loss is None and radius is None):
        raise InvalidValue("for_steps=True needs start= and a tolerance, loss= or radius=")
    if spectrum.covers != "all":
        raise InvalidValue(f"for_steps=True needs all eigenvalues; the spectrum covers {spectrum.covers!r}")
    refuse_tolerances(loss, radius)
    error = components("start", start, search.values)

    def settled(lr: float, momentum: float | Tensor | None, within: float) -> float:
        search.evaluations += 1
        chosen = rule if momentum is None else with_momentum(rule, momentum)
        moved = flow(linear(chosen.replace(lr=lr)), search.values, point=point)
        found = count(moved, search.values, error, loss=loss, distance=radius, within=int(min(within, 1e7))).settled
        return math.inf if found is None else found

    def over_lr(momentum: float | Tensor | None, rounds: int, fewest: float) -> tuple[float, float]:
        top = float(search.limits(momentum))
        return _zoom(
            lambda lr, best: settled(lr, momentum, 2 * min(best, fewest) + 512), top * 0.02, top, rounds, begin[0]
        )

    def refined(momentum: float | Tensor | None) -> tuple[int, float]:
        steps, lr = over_lr(momentum, 4, math.inf)
        chosen, top = rule if momentum is None else with_momentum(rule, momentum), float(search.limits(momentum))
        fewest, lr, tried = sooner(
            chosen,
            search.values,
            error,
            (top * 0.02, top),
            (_found(steps), lr),
            lambda lr: settled(lr, momentum, 2 * steps + 512),
            loss=loss,
            distance=radius,
            point=point,
        )
        search.evaluations += tried
        return fewest, lr

    if "momentum" not in wanted:
        steps, lr = refined(begin[1])
        return lr, begin[1], steps
    momentum = float(begin[1])  # type: ignore[arg-type]

    def at_momentum(distance: float, best: float) -> float:
        return over_lr(-math.expm1(-distance), 1, best)[0]

    around = -math.log1p(-momentum)
    _, distance = _zoom(at_momentum, around / 4, around * 2, 1, around)
    momentum = -math.expm1(-distance)
    (steps, lr), momentum = min((refined(m), m) for m in (momentum, float(begin[1])))  # type: ignore[arg-type]
    return lr, momentum, steps


def _zoom(
    cost: Callable[[float, float], float], low: float, high: float, rounds: int, first: float
) -> tuple[float, float]:
    """Smallest cost(x, best so far) in rounds of 33 points, and the middle of the run of points that attain it."""
    best, where = cost(first, math.inf), first
    for _ in range(rounds):
        tried = [low + (high - low) * i / 34 for i in range(1, 34)]
        costs = []
        for x in tried:
            costs.append(cost(x, best))
            best = min(best, costs[-1])
        if best in costs:
            run = [i for i, c in enumerate(costs) if c == best]
            where = tried[run[len(run) // 2]]
        step = (high - low) / 34
        low, high = max(low, where - 2 * step), min(high, where + 2 * step)
    return best, where


def _found(steps: float) -> int:
    if not math.isfinite(steps):
        raise InvalidValue(
            "no setting meets the tolerance for good; loosen it, or check the spectrum for flat directions"
        )
    return int(steps)
