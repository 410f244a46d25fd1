"""The article's four runs as data, and what becomes of each: its own count, predicted, rotated, settled."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eigenstep.problems import Quadratic, article
from eigenstep.rules import Adam, GradientDescent, LinearRule, Momentum, Rule
from eigenstep.simulation import Run, simulate
from eigenstep.theory import error_curve, predict

TOLERANCE, BOX, PASSES = 1e-6, 5.0, 10_000  # the loop goes on while loss > 1e-6, |p| < 5, and for 10,000 passes
ETA_MAX, ETA_STAR = 2 / 100, 2 / 101
TURN = math.pi / 4
_LINEAR_WITHIN = 1_000  # updates over which a prediction that the loss stays below is checked


@dataclass(frozen=True)
class Experiment:
    """One run of the article. name: of its figure. printed: the count it prints, None where it says 'diverged'."""

    name: str
    title: str
    rule: Rule
    printed: int | None


EXPERIMENTS = (
    Experiment(
        "gradient-descent-too-high", "gradient descent, 1.01 η_max", GradientDescent(lr=1.01 * ETA_MAX), printed=None
    ),
    Experiment("gradient-descent", "gradient descent, η*", GradientDescent(lr=ETA_STAR), printed=420),
    Experiment("momentum", "momentum .9, .175 η*", Momentum(lr=0.175 * ETA_STAR, momentum=0.9), printed=137),
    Experiment("adam", "Adam, η*", Adam(lr=ETA_STAR), printed=117),
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a run. Article counts are passes of its loop, updates + 1; everything else is in updates.

    article_count: in float64; float32: in the article's own precision; predicted: without running, for a linear method;
    rotated: with the eigenvectors turned by 45 degrees, and predicted_rotated. diverged: it left the box. settled: from
    which update the loss stays below for ever, predicted, and found again over `within` updates: a stable linear method
    only. last_above: the last update above the tolerance within `within`; None where it diverged. losses (k + 1,) and
    points (k + 1, 2) at updates 0 to k; errors (k + 1, 2) as predicted along the eigenvectors, None for an adaptive
    method.
    """

    experiment: Experiment
    article_count: int | None
    float32: int | None
    predicted: int | None
    rotated: int | None
    predicted_rotated: int | None
    diverged: bool
    settled: int | None
    predicted_settled: int | None
    last_above: int | None
    within: int
    losses: Tensor = field(repr=False)
    points: Tensor = field(repr=False)
    errors: Tensor | None = field(repr=False)

    @property
    def exact(self) -> bool:
        """Whether the article's count came out, in both precisions, and every prediction with it."""
        same = [(self.float32, self.article_count), (self.predicted_settled, self.settled)]
        same += [(self.experiment.printed, self.article_count)] * (self.experiment.printed is not None)
        same += [(self.predicted, self.article_count)] * (self.predicted is not None)
        same += [(self.predicted_rotated, self.rotated)] * (self.predicted_rotated is not None)
        return all(a == b for a, b in same)

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain data for JSON, without the curves."""
        names = ("float32", "predicted", "rotated", "predicted_rotated", "diverged", "settled", "predicted_settled")
        return {
            "name": self.experiment.name,
            "rule": repr(self.experiment.rule),
            "rules": [self.experiment.rule.as_dict()],
            "printed": self.experiment.printed,
            "article_count": self.article_count,
            **{name: getattr(self, name) for name in (*names, "last_above", "within", "exact")},
        }


def loop(
    rule: Rule, problem: Quadratic, *, dtype: torch.dtype = torch.float64, keep: Collection[str] = (), **changes: Any
) -> Run:
    """Run a rule as the article's loop does, from the problem's start; `changes` replace its tolerance or bounds.

    >>> loop(GradientDescent(lr=2 / 101), article()).article_count
    420
    """
    rules: dict[str, Any] = {"loss": TOLERANCE, "box": BOX, "steps": PASSES} | changes
    return simulate(rule, problem, problem.start.to(dtype), keep=keep, **rules)


def predicted_count(rule: Rule, problem: Quadratic) -> int | None:
    """Predict the passes of the article's loop from the eigenvalues, without running; None: it would use all of them.

    The loss is tested before the step, the box after it: the first update that meets the tolerance + 1, or the first
    outside the box, whichever comes first. Raises as `error_curve`.

    >>> predicted_count(GradientDescent(lr=1.01 * 2 / 100), article())
    101
    """
    errors = error_curve(rule, problem.spectrum(), problem.components(problem.start), PASSES)
    met = problem.eigenvalues @ errors.T.square() / 2 <= TOLERANCE
    out = (problem.from_components(errors).abs() >= BOX).any(-1)
    ends = [int(found.nonzero()[0]) + extra for found, extra in ((met, 1), (out, 0)) if bool(found.any())]
    return min(ends, default=None)


def run_experiment(experiment: Experiment) -> Outcome:
    """Run one of the article's experiments, and everything that its count leaves open."""
    rule, problem = experiment.rule, article()
    turned = problem.rotated(angle=TURN)
    run = loop(rule, problem, keep=("losses", "points"))
    losses = run.kept("losses")
    linear = isinstance(rule, LinearRule) and not rule.adaptive
    within = _LINEAR_WITHIN if linear else PASSES
    long = loop(rule, problem, steps=within, settle=True)
    settled = errors = None
    if linear:
        start = problem.components(problem.start)
        settled = predict(rule, problem.spectrum(), start=start, loss=TOLERANCE).settled
        errors = error_curve(rule, problem.spectrum(), start, len(losses) - 1)
    return Outcome(
        experiment=experiment,
        article_count=_number(run.article_count),
        float32=_number(loop(rule, problem, dtype=torch.float32).article_count),
        predicted=predicted_count(rule, problem) if linear else None,
        rotated=_number(loop(rule, turned).article_count),
        predicted_rotated=predicted_count(rule, turned) if linear else None,
        diverged=run.left is not None,
        settled=_number(long.settled) if linear else None,
        predicted_settled=settled,
        last_above=None if long.left is not None else _number(long.last_above),
        within=within,
        losses=losses,
        points=run.kept("points"),
        errors=errors,
    )


def run_experiments(progress: Callable[[int, int], None] | None = None) -> tuple[Outcome, ...]:
    """Run the four experiments, in the article's order."""
    outcomes = []
    for experiment in EXPERIMENTS:
        outcomes.append(run_experiment(experiment))
        if progress:
            progress(len(outcomes), len(EXPERIMENTS))
    return tuple(outcomes)


def _number(count: int | Tensor | None) -> int | None:
    """The count of a single run."""
    return None if count is None else int(count)
