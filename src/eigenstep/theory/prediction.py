"""predict: what one rule will do on one spectrum, each answer with its reason where it cannot be given."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.plain import alone_in
from eigenstep.result import Result, Words, number
from eigenstep.rules import LinearRule, Rule
from eigenstep.spectrum import Spectrum
from eigenstep.theory.answers import MOVES, Answers, effective_eigenvalues, fill_counts, notes
from eigenstep.theory.limits import stable_directions
from eigenstep.theory.linear import is_oscillating, iteration_matrix, linear, spectral_radius
from eigenstep.theory.propagate import Flow, components, flow

# Updates after which counting gives up: some seconds, whatever the number of eigenvalues.
_WITHIN, _LEAST, _EFFORT = 10_000_000, 20_000, 100_000_000


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Result):
    """What `predict` found. An answer that is None has its reason in `reasons`, under the answer's name.

    - stable: bool; every covered direction contracts (spectral radius below 1).
    - rate: factor per update; the asymptotic one R, that of the eigenvalue `slowest`.
    - max_stable_lr: lr; for the largest eigenvalue, with `max_stable_lr_interval` from its bound.
    - frozen_limit: lr; the same with an adaptive rule's unit frozen.
    - condition: a factor; the largest eigenvalue over the smallest.
    - peak: factor; the largest transient growth of one eigencomponent, from rest.
    - steps: updates; the first at which the tolerance is met.
    - settled: updates; the first from which it stays met.
    - estimate: updates; the textbook ln(tol / f0) / (2 ln R).
    - radii: (n,), factors per update; spectral radii, aligned with the eigenvalues.
    - oscillating: (n,), bool; whether the slowest mode is complex or negative (theory.is_oscillating).
    - time_constants: (n,), updates; -1 / ln(spectral radius).
    - notes: flat and negative directions, and the assumptions, in words.
    """

    kind: ClassVar[str] = "prediction"

    rule: Rule = field(metadata=alone_in("rules"))
    spectrum: Spectrum
    stable: bool | None
    rate: float | None
    slowest: float | None
    max_stable_lr: float | None
    max_stable_lr_interval: tuple[float, float] | None
    frozen_limit: float | None
    condition: float | None
    peak: float | None
    steps: int | None
    settled: int | None
    estimate: float | None
    radii: Tensor
    oscillating: Tensor
    time_constants: Tensor
    notes: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)

    def derived(self) -> dict[str, Any]:
        """The rule in words, and the eigenvalues that the lists are aligned with."""
        return {"rule": repr(self.rule), "eigenvalues": self.spectrum.eigenvalues.tolist()}

    def words(self) -> Words:
        """Return the answers, and what each eigenvalue does."""
        fate = {True: "stable", False: "unstable", None: "stability not known"}[self.stable]
        answers = {"rate per update": self.rate, "largest stable lr": self.max_stable_lr, "condition": self.condition}
        answers |= {"updates to the tolerance": self.steps, "settled from": self.settled, "textbook": self.estimate}
        answers |= {"slowest eigenvalue": self.slowest, "frozen limit": self.frozen_limit, "peak": self.peak}
        rows = [(name, number(value)) for name, value in answers.items() if value is not None]
        table = {
            **{"eigenvalue": self.spectrum.eigenvalues.tolist(), "radius": self.radii.tolist()},
            **{"oscillates": self.oscillating.tolist(), "time constant": self.time_constants.tolist()},
        }
        notes = [*self.notes, *(f"{name}: {reason}" for name, reason in self.reasons.items())]
        brief = f"{self.rule.name}: {fate}, rate {number(self.rate)}, max_stable_lr {number(self.max_stable_lr)}"
        return Words(brief, f"{self.rule!r} is {fate}", rows, table, notes)

    def plot(self, ax: Any = None) -> Any:
        """Draw the factor per update of each eigenvalue, 1 being the edge; return the axes."""
        from eigenstep import draw

        ax = draw.curve(self.radii, self.spectrum.eigenvalues, ax, look="dots")
        draw.line_at(1.0, ax, text="the edge", across="y")
        return draw.describe(ax, "eigenvalue", "factor per update", self.rule.name)


def predict(
    rule: Rule,
    spectrum: Spectrum,
    *,
    start: Any = None,
    loss: float | None = None,
    radius: float | None = None,
    origin: Any = None,
    unit: float | Tensor | None = None,
    point: str = "iterate",
    within: int | None = None,
) -> Prediction:
    """Predict the fate of a rule near a point whose curvature is `spectrum`, from the rule's own step.

    start: (n,) eigencomponents of the error, aligned with `spectrum.eigenvalues`; with it and a tolerance, `loss`
    on 1/2 sum lambda e^2 and (or) `radius` on |e|, the updates are counted exactly, the rule starting at rest.
    Weight decay moves the fixed point: start and counts refer to the shifted one unless `origin` is given, the (n,)
    components of (zero parameters - minimum); then they refer to the minimum. Where decoupled decay meets momentum
    the buffers rest at a value of their own, which `origin` alone can tell: without it the counts take them to start
    there, and a note says so. unit: the frozen P of an adaptive rule on a plain Hessian spectrum. point='stored'
    counts at the point that the rule stores (Nesterov's look-ahead in torch). within: updates after which counting
    gives up, by default ten million, fewer for more than ten eigenvalues (a hundred thousand for a thousand).

    Raises InvalidValue for lr = 0 (nothing moves, so there is no rate), an adaptive rule on a plain Hessian spectrum
    without `unit`, a batch of settings, or misshapen components; Unsupported for a rule that is not linear.

    >>> from eigenstep.rules import GradientDescent
    >>> p = predict(GradientDescent(lr=2 / 101), Spectrum.from_eigenvalues([1, 100]), start=[-0.8, -0.6], loss=1e-6)
    >>> p.steps, round(p.rate, 4)
    (419, 0.9802)
    """
    rule = _single(linear(rule))
    values = effective_eigenvalues(rule, spectrum, unit)
    matrices = iteration_matrix(rule, values)
    radii = spectral_radius(matrices).nan_to_num(nan=math.inf, posinf=math.inf)  # overflow: beyond every number
    if within is None:
        within = max(_LEAST, min(_WITHIN, _EFFORT // len(values)))
    answers = Answers(rule, spectrum, values, radii, stable_directions(rule, values))
    fill_counts(answers, start=start, loss=loss, distance=radius, origin=origin, point=point, within=within)
    return Prediction(
        rule=rule,
        spectrum=spectrum,
        condition=spectrum.condition,
        radii=radii,
        oscillating=is_oscillating(matrices),
        time_constants=torch.where(radii < 1, -1 / radii.log(), math.inf),
        notes=notes(rule, spectrum, values, radii, counted_blind=start is not None and origin is None),
        reasons=answers.reasons,
        **answers.found,
    )


def error_curve(
    rule: Rule, spectrum: Spectrum, start: Any, steps: int, *, origin: Any = None, point: str = "iterate"
) -> Tensor:
    """Return the predicted eigencomponents of the error at updates 0 to `steps`, (steps + 1, n); see `predict`.

    The predicted loss is 1/2 sum lambda e^2 of them. Raises as `predict`; Unsupported for an adaptive rule.

    >>> from eigenstep.rules import GradientDescent
    >>> error_curve(GradientDescent(lr=0.5), Spectrum.from_eigenvalues([1.0]), [1.0], 2).squeeze(-1).tolist()
    [1.0, 0.5, 0.25]
    """
    moved = _flow(rule, spectrum, origin, point)
    return moved.curve(components("start", start, spectrum.eigenvalues), steps)


def _flow(rule: Rule, spectrum: Spectrum, origin: Any, point: str) -> Flow:
    rule = _single(linear(rule))
    if rule.adaptive:
        raise InvalidValue(f"{type(rule).__name__} has no exact error curve: {MOVES}")
    values = spectrum.eigenvalues
    return flow(rule, values, origin=None if origin is None else components("origin", origin, values), point=point)


def _single(rule: LinearRule) -> LinearRule:
    if rule.lanes:
        raise InvalidValue(
            f"{type(rule).__name__}: one setting at a time here, not a batch of shape {tuple(rule.lanes)}"
        )
    if rule.lr == 0:
        raise InvalidValue(
            f"{type(rule).__name__}: at lr = 0 nothing moves, so there is no rate; ask max_stable_lr for the limit"
        )
    return rule
