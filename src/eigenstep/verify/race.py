"""race: several rules on one problem from one start, the predicted counts beside the measured ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.problems import Problem
from eigenstep.rules import LinearRule, Rule
from eigenstep.simulation import Run, simulate
from eigenstep.spectrum import Spectrum
from eigenstep.theory import Prediction, error_curve, max_stable_lr, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Entry:
    """One rule's race. All losses are above the loss at the known minimum.

    run: what `simulate` found, told to go on after the first crossing. losses: (k,) at updates 0, 1, ... prediction,
    predicted_losses: exact, where the rule is linear and the loss quadratic; else None. limit: the largest stable lr at
    the minimum, for a linear rule.
    """

    rule: Rule
    run: Run
    losses: Tensor = field(repr=False)
    prediction: Prediction | None
    predicted_losses: Tensor | None = field(repr=False)
    limit: float | None

    @property
    def settled(self) -> int | None:
        """Update from which the tolerance stays met for ever: only what is predicted and measured to be so."""
        stays = self.prediction is not None and self.prediction.settled is not None
        return self.run.settled if stays else None  # type: ignore[return-value]

    @property
    def last_above(self) -> int | None:
        """The last update above the tolerance within the limit; None if it was above to the end, or diverged."""
        last = self.run.last_above
        return None if last is None or last >= self.run.max_steps else int(last)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain data for JSON."""
        p = self.prediction
        return {
            "rule": repr(self.rule),
            "rules": [self.rule.as_dict()],
            "steps": self.run.steps,
            "predicted_steps": p.steps if p else None,
            "settled": self.settled,
            "predicted_settled": p.settled if p else None,
            "last_above": self.last_above,
            "within": self.run.max_steps,
            "left": self.run.left,
            "final_loss": float(self.losses[-1]),
            "max_stable_lr": self.limit,
        }


def race(
    rules: Sequence[Rule],
    problem: Problem,
    *,
    start: Tensor | None = None,
    loss: float | None = 1e-6,
    radius: float | None = None,
    box: float | None = None,
    steps: int = 10_000,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Entry, ...]:
    """Run each rule on the problem for `steps` updates and note when it met the tolerance, and if it stayed there.

    start: (n,), by default the problem's. loss: tolerance on the loss above that of the known minimum; radius: on the
    distance to the nearest minimum. box: a rule diverges when a coordinate is not inside (-box, box).

    Raises InvalidValue without rules, and for what `simulate` refuses.

    >>> from eigenstep.problems import article
    >>> from eigenstep.rules import GradientDescent
    >>> (entry,) = race([GradientDescent(lr=2 / 101)], article())
    >>> entry.run.steps, entry.prediction.steps, entry.settled
    (419, 419, 419)
    """
    if not rules:
        raise InvalidValue("race: there is no rule to run; give at least one")
    if loss is not None and not (math.isfinite(loss) and loss > 0):
        raise InvalidValue(f"race: loss={loss} must be a finite, positive tolerance")
    hessian = problem.hessian(problem.minimum)
    begin = problem.start if start is None else start
    floor = float(problem.loss(problem.minimum))
    entries = []
    for number, rule in enumerate(rules):
        run = simulate(
            rule,
            problem,
            start,
            steps=steps,
            loss=None if loss is None else loss + floor,
            radius=radius,
            box=box,
            keep=("losses",),
            settle=True,
        )
        losses = run.kept("losses")
        linear = isinstance(rule, LinearRule) and not rule.adaptive and bool(torch.as_tensor(rule.lr) > 0)
        prediction = predicted = None
        if linear and torch.allclose(problem.hessian(begin.to(hessian)), hessian, rtol=1e-10, atol=0):
            prediction, predicted = _predicted(rule, problem, hessian, begin, loss, radius, len(losses) - 1)
        limit = float(max_stable_lr(rule, float(torch.linalg.eigvalsh(hessian)[-1]))) if linear else None
        entries.append(Entry(rule, run, losses - floor, prediction, predicted, limit))
        if progress:
            progress(number + 1, len(rules))
    return tuple(entries)


def race_figure(entries: Sequence[Entry], loss: float | None) -> "Figure":
    """Draw the losses of all entries against the updates, and the predicted ones as dots.

    A rule that still goes above the tolerance at the right end, cycling perhaps, is drawn thinly, behind the others.
    """
    from eigenstep import draw

    figure, (ax,) = draw.panels(width=5.5, height=3.2)
    ends = [int(entry.run.steps) for entry in entries if entry.run.steps is not None]
    shown = round(1.3 * max(ends)) + 10 if ends else max(len(entry.losses) for entry in entries)
    top = 1e3 * max(float(entry.losses[0]) for entry in entries)

    def visible(losses: Tensor) -> Tensor:
        return torch.where((losses > 0) & (losses < top), losses, torch.nan)[: shown + 1]

    for i, entry in enumerate(entries):
        look: Any = "line" if i < len(draw.PALETTE) else "dashes"
        label = f"{entry.rule.name}, lr {float(entry.rule.lr):.4g}"
        draw.curve(visible(entry.losses), ax=ax, label=label, color=draw.PALETTE[i % len(draw.PALETTE)], look=look)
        cycling = entry.run.left is None and (entry.last_above is None or entry.last_above > shown)
        ax.lines[-1].set(linewidth=0.3 if cycling and ends else 1.0, zorder=1 if cycling else 2)
    label = "predicted"
    for entry in entries:
        if entry.predicted_losses is not None:
            dots = visible(entry.predicted_losses)
            draw.curve(dots, ax=ax, color=draw.INK, look="dots", label=label, every=max(1, shown // 40))
            label = ""
    draw.describe(ax, "updates", "loss above the minimum's", entries[0].run.problem, log="y")
    if loss is not None:
        lowest = min(float(seen[seen == seen].min()) for seen in (visible(entry.losses) for entry in entries))
        ax.set_ylim(min(loss, max(lowest, 1e-3 * loss)) / 2, None)
        draw.line_at(loss, ax, across="y", text="tolerance")
    draw.legend(ax, "right")
    return figure


def _predicted(
    rule: Rule,
    problem: Problem,
    hessian: Tensor,
    start: Tensor,
    loss: float | None,
    radius: float | None,
    updates: int,
) -> tuple[Prediction, Tensor]:
    """The exact prediction on a quadratic loss, and the losses it says, (updates + 1,)."""
    values, vectors = torch.linalg.eigh(hessian)
    error, center = vectors.T @ (start.to(values) - problem.minimum), vectors.T @ -problem.minimum
    spectrum = Spectrum.from_eigenvalues(values)
    decays = bool(torch.as_tensor(getattr(rule, "weight_decay", 0.0)) != 0)
    origin = center if decays else None
    found = predict(rule, spectrum, start=error, loss=loss, radius=radius, origin=origin)
    errors = error_curve(rule, spectrum, error, updates, origin=origin)
    return found, (errors.square() * values).sum(-1) / 2
