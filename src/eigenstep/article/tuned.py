"""Every optimiser tuned alike: the lr with the fewest updates until the loss stays below the article's tolerance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eigenstep.article.experiments import PASSES, TOLERANCE
from eigenstep.problems import Quadratic, article
from eigenstep.rules import Adam, GradientDescent, HeavyBall, LinearRule, Nesterov, Rule
from eigenstep.simulation import simulate
from eigenstep.theory import predict, tune
from eigenstep.theory.linear import linear

BEST_MOMENTUM = ((math.sqrt(100) - 1) / (math.sqrt(100) + 1)) ** 2  # heavy ball's, for the asymptotic rate
POLYAK_LR = (2 / (math.sqrt(100) + math.sqrt(1))) ** 2
_LINEAR_WITHIN = 1_000  # as in the experiments: the settled count of a linear rule is predicted for ever
_ADAM_LRS = 1000  # Adam's count jumps about with lr, so that a zooming search could miss the best one


@dataclass(frozen=True)
class Contender:
    """A rule in the comparison; its lr is tuned unless `fixed`. name: for a table."""

    name: str
    rule: Rule
    fixed: bool = False


CONTENDERS = (
    Contender("heavy ball, β*", HeavyBall(momentum=BEST_MOMENTUM)),
    Contender("heavy ball, β*, Polyak's lr", HeavyBall(lr=POLYAK_LR, momentum=BEST_MOMENTUM), fixed=True),
    Contender("Nesterov, .9", Nesterov(momentum=0.9)),
    Contender("heavy ball, .9", HeavyBall(momentum=0.9)),
    Contender("gradient descent", GradientDescent()),
    Contender("Adam, default betas", Adam()),
)


@dataclass(frozen=True)
class Tuned:
    """A contender at its best lr. predicted: updates from which the loss stays below for ever, None for Adam.

    measured: updates from which it stayed below, over `within` updates. tried: how many lrs were compared.
    """

    name: str
    rule: Rule
    lr: float
    predicted: int | None
    measured: int | None
    within: int
    tried: int

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        names = ("name", "lr", "predicted", "measured", "within", "tried")
        return {
            "rule": repr(self.rule),
            "rules": [self.rule.as_dict()],
            **{name: getattr(self, name) for name in names},
        }


def tune_alike(progress: Callable[[int, int], None] | None = None) -> tuple[Tuned, ...]:
    """Tune every contender on the article's problem for the same count, and run it at the lr found."""
    found = []
    for contender in CONTENDERS:
        found.append(tuned(contender))
        if progress:
            progress(len(found), len(CONTENDERS))
    return tuple(found)


def tuned(contender: Contender, within: int = PASSES, lrs: int = _ADAM_LRS) -> Tuned:
    """Tune one contender: a linear rule by theory, then run; an adaptive one by running `lrs` lrs for `within` updates.

    >>> best = tuned(CONTENDERS[0])
    >>> best.predicted, best.measured
    (46, 46)
    """
    rule, problem = contender.rule, article()
    if not isinstance(rule, LinearRule) or rule.adaptive:
        lr = torch.logspace(-3, 0, lrs, dtype=torch.float64)
        counts = settled_counts(rule, lr, within)
        best = int(counts.nan_to_num(math.inf).argmin())
        measured = None if counts[best].isnan() else int(counts[best])
        return Tuned(
            contender.name, rule.replace(lr=float(lr[best])), float(lr[best]), None, measured, within, tried=lrs
        )
    spectrum, start = problem.spectrum(), problem.components(problem.start)
    tried = 1
    if not contender.fixed:
        search = tune(rule, spectrum, for_steps=True, start=start, loss=TOLERANCE)
        rule, tried = linear(search.rule), search.evaluations
    lr_found = float(rule.lr)
    predicted = predict(rule, spectrum, start=start, loss=TOLERANCE).settled
    (count,) = settled_counts(rule, torch.tensor([lr_found], dtype=torch.float64), _LINEAR_WITHIN).tolist()
    measured = None if math.isnan(count) else int(count)
    return Tuned(contender.name, rule, lr_found, predicted, measured, _LINEAR_WITHIN, tried)


def settled_counts(rule: Rule, lr: Tensor, within: int, problem: Quadratic | None = None) -> Tensor:
    """Return at each lr (k,) the update from which the loss stays below the tolerance within `within`, nan if none.

    >>> settled_counts(GradientDescent(), torch.tensor([2 / 101, 0.03], dtype=torch.float64), 1000).tolist()
    [419.0, nan]
    """
    run = simulate(rule.replace(lr=lr), problem or article(), loss=TOLERANCE, ball=1e3, steps=within, settle=True)
    counts = torch.as_tensor(run.settled, dtype=torch.float64)
    return torch.where(counts >= 0, counts, torch.nan)
