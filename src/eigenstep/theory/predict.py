"""predict: what one rule will do on one spectrum, each answer with its reason where it cannot be given."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.rules import LinearRule, Rule
from eigenstep.spectrum import Spectrum
from eigenstep.theory.adaptive import preconditioned_eigenvalues
from eigenstep.theory.limits import frozen_limit, max_stable_lr
from eigenstep.theory.linear import is_oscillating, is_stable, iteration_matrix, linear, spectral_radius
from eigenstep.theory.propagate import Flow, components, count, flow, peak

_MOVES = "P moves; simulate it"
_WITHIN = 10_000_000


@dataclass(frozen=True, eq=False)
class Prediction:
    """What `predict` found. An answer that is None has its reason in `reasons`, under the answer's name.

    stable: every covered direction contracts (radius below 1). rate: the asymptotic factor R per update, that of
    the eigenvalue `slowest`. max_stable_lr: for the largest eigenvalue, with `max_stable_lr_interval` from its
    bound; frozen_limit: the same with an adaptive rule's unit frozen. peak: largest transient growth of one
    eigencomponent, from rest. steps: first update at which the tolerance is met; settled: first from which it stays
    met; estimate: the textbook ln(tol / f0) / (2 ln R). radii, oscillating, time_constants: (n,), aligned with the
    eigenvalues; time constants in updates, -1 / ln(radius). notes: flat and negative directions, and the
    assumptions, in words.
    """

    rule: Rule
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

    def as_dict(self) -> dict[str, Any]:
        """Return the answers as plain data for JSON; infinities as the string 'inf'."""
        names = (
            "stable",
            "rate",
            "slowest",
            "max_stable_lr",
            "frozen_limit",
            "condition",
            "peak",
            "steps",
            "settled",
            "estimate",
        )
        answers = {name: _plain(getattr(self, name)) for name in names}
        interval = self.max_stable_lr_interval
        return {
            "rule": repr(self.rule),
            **answers,
            "max_stable_lr_interval": None if interval is None else [_plain(v) for v in interval],
            "eigenvalues": self.spectrum.eigenvalues.tolist(),
            "radii": self.radii.tolist(),
            "oscillating": self.oscillating.tolist(),
            "time_constants": [_plain(v) for v in self.time_constants.tolist()],
            "notes": list(self.notes),
            "reasons": dict(self.reasons),
        }


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
    within: int = _WITHIN,
) -> Prediction:
    """Predict the fate of a rule near a point whose curvature is `spectrum`, from the rule's own step.

    start: (n,) eigencomponents of the error, aligned with `spectrum.eigenvalues`; with it and a tolerance, `loss`
    on 1/2 sum lambda e^2 and (or) `radius` on |e|, the updates are counted exactly, the rule starting at rest.
    Weight decay moves the fixed point: start and counts refer to the shifted one unless `origin` is given, the (n,)
    components of (zero parameters - minimum); then they refer to the minimum. Where decoupled decay meets momentum
    the buffers rest at a value of their own, which `origin` alone can tell: without it the counts take them to start
    there, and a note says so. unit: the frozen P of an adaptive rule on a plain Hessian spectrum. point='stored'
    counts at the point that the rule stores (Nesterov's look-ahead in torch).

    Raises InvalidValue for lr = 0 (nothing moves, so there is no rate), an adaptive rule on a plain Hessian spectrum
    without `unit`, a batch of settings, or misshapen components; Unsupported for a rule that is not linear.

    >>> from eigenstep.rules import GradientDescent
    >>> p = predict(GradientDescent(lr=2 / 101), Spectrum.from_eigenvalues([1, 100]), start=[-0.8, -0.6], loss=1e-6)
    >>> p.steps, round(p.rate, 4)
    (419, 0.9802)
    """
    rule = _single(linear(rule))
    values = _effective(rule, spectrum, unit)
    matrices = iteration_matrix(rule, values)
    radii = spectral_radius(matrices)
    answers = _Answers(rule, spectrum, values, radii, is_stable(matrices))
    _count(answers, start=start, loss=loss, radius=radius, origin=origin, point=point, within=within)
    return Prediction(
        rule=rule,
        spectrum=spectrum,
        condition=spectrum.condition,
        radii=radii,
        oscillating=is_oscillating(matrices),
        time_constants=torch.where(radii < 1, -1 / radii.log(), math.inf),
        notes=_notes(rule, spectrum, values, radii, counted_blind=start is not None and origin is None),
        reasons=answers.reasons,
        **answers.found,
    )


class _Answers:
    """The answers that the covered part of a spectrum allows, and the reasons for those that it does not."""

    def __init__(self, rule: LinearRule, spectrum: Spectrum, values: Tensor, radii: Tensor, stable: Tensor) -> None:
        self.rule, self.values, self.complete = rule, values, spectrum.covers == "all"
        self.reasons: dict[str, str] = {}
        self.found: dict[str, Any] = {}
        self._limits(spectrum)
        self._rates(spectrum, radii, stable)
        if spectrum.condition is None:
            known = None not in (spectrum.largest, spectrum.smallest)
            missing = "the smallest eigenvalue is negative" if known else f"the spectrum covers {spectrum.covers!r}"
            self.reasons["condition"] = missing
        if spectrum.condition is None:
            known = None not in (spectrum.largest, spectrum.smallest)
            missing = "the smallest eigenvalue is negative" if known else f"the spectrum covers {spectrum.covers!r}"
            self.reasons["condition"] = missing

    def lacks(self, names: tuple[str, ...], reason: str) -> None:
        """Answer None to each name, for this reason."""
        self.found |= dict.fromkeys(names)
        self.reasons |= dict.fromkeys(names, reason)

    def _limits(self, spectrum: Spectrum) -> None:
        names = ("max_stable_lr", "max_stable_lr_interval", "frozen_limit")
        if spectrum.largest is None:
            return self.lacks(names, f"the spectrum covers {spectrum.covers!r}: its largest eigenvalue is not known")
        assert spectrum.bounds is not None
        top = int(self.values.argmax())
        sharpest, bound = self.values[top], spectrum.bounds[top] * self._magnified(spectrum, top)
        limits = [float(max_stable_lr(self.rule, sharpest + shift * bound)) for shift in (1, 0, -1)]
        self.found |= {"max_stable_lr": limits[1], "max_stable_lr_interval": (min(limits), max(limits))}
        if self.rule.adaptive:
            self.found["frozen_limit"] = float(frozen_limit(self.rule, sharpest))
            return None
        return self.lacks(("frozen_limit",), f"{type(self.rule).__name__} has no adaptive unit to freeze")

    def _magnified(self, spectrum: Spectrum, top: int) -> Tensor:
        """How much a unit given by the caller has scaled the eigenvalue, and with it the bound."""
        value = spectrum.values[top]
        return torch.ones_like(value) if value == 0 else (self.values[top] / value).abs()

    def _rates(self, spectrum: Spectrum, radii: Tensor, stable: Tensor) -> None:
        ends_suffice = spectrum.covers == "ends" and self._worst_inside() <= float(radii.max()) * (1 + 1e-12)
        worst = int(radii.argmax())
        if self.complete or ends_suffice:
            self.found |= {"rate": float(radii[worst]), "slowest": float(spectrum.values[worst])}
            self.found["stable"] = self.rule.unit_only_grows or bool(stable.all())
        else:
            reason = f"the spectrum covers {spectrum.covers!r}: eigenvalues that are not known may set it"
            self.lacks(("rate", "slowest"), reason)
            self.found["stable"] = None if bool(stable.all()) else False
            if self.found["stable"] is None:
                self.reasons["stable"] = (
                    f"every known direction is stable, but the spectrum covers {spectrum.covers!r} only"
                )

    def _worst_inside(self) -> float:
        """The largest radius on a fine grid between the ends."""
        grid = torch.linspace(float(self.values.min()), float(self.values.max()), 2001, dtype=torch.float64)
        return float(spectral_radius(iteration_matrix(self.rule, grid)).max())


def _count(
    answers: _Answers,
    *,
    start: Any,
    loss: float | None,
    radius: float | None,
    origin: Any,
    point: str,
    within: int,
) -> None:
    """Fill in peak, steps, settled and estimate."""
    rule, values, found = answers.rule, answers.values, answers.found
    counted = ("steps", "settled", "estimate")
    for name, tolerance in (("loss", loss), ("radius", radius)):
        if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
            raise InvalidValue(f"{name}={tolerance} must be a finite, positive tolerance")
    if point not in ("iterate", "stored"):
        raise InvalidValue(f"point={point!r} must be 'iterate' or 'stored'")
    if rule.adaptive:
        return answers.lacks((*counted, "peak"), _MOVES)
    if not answers.complete:
        return answers.lacks((*counted, "peak"), "all eigenvalues are needed, and the spectrum does not hold them")
    found["peak"] = peak(flow(rule, values, point=point)) if found["rate"] < 1 else math.inf
    if start is None or (loss is None and radius is None):
        return answers.lacks(counted, "give start= and a tolerance, loss= or radius=")
    begin = components("start", start, values)
    pull = None if origin is None else components("origin", origin, values)
    moved = flow(rule, values, origin=pull, point=point)
    counts = count(moved, values, begin, loss=loss, radius=radius, within=within)
    for name, number in (("steps", counts.first), ("settled", counts.settled)):
        found[name] = number
        if number is None:
            answers.reasons[name] = counts.reason
    return _estimate(answers, begin, loss, radius)


def _estimate(answers: _Answers, start: Tensor, loss: float | None, radius: float | None) -> None:
    """The textbook count: as if the whole error shrank by R at each update."""
    rate = answers.found["rate"]
    if not 0 < rate < 1:
        return answers.lacks(("estimate",), f"at rate {rate:.6g} there is none")
    needed = []
    if loss is not None:
        begin = float((answers.values * start**2).sum()) / 2
        needed.append(math.log(loss / begin) / (2 * math.log(rate)) if begin > loss else 0.0)
    if radius is not None:
        length = float(start.norm())
        needed.append(math.log(radius / length) / math.log(rate) if length > radius else 0.0)
    answers.found["estimate"] = max(needed)
    return None


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
        raise InvalidValue(f"{type(rule).__name__} has no exact error curve: {_MOVES}")
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


def _effective(rule: LinearRule, spectrum: Spectrum, unit: float | Tensor | None) -> Tensor:
    """The eigenvalues that the rule's matrix is built from; lambda and a are never confused."""
    name = type(rule).__name__
    if spectrum.operator == "preconditioned":
        made_for = (spectrum.preconditioner or {}).get("rule")
        if not rule.adaptive:
            raise InvalidValue(
                f"{name} does not adapt, but this is a preconditioned spectrum (of {made_for}); give the Hessian's"
            )
        if unit is not None:
            raise InvalidValue("unit= was given, but the spectrum is preconditioned already; leave it out")
        return spectrum.eigenvalues
    if not rule.adaptive:
        if unit is not None:
            raise InvalidValue(f"unit= was given, but {name} does not adapt; leave it out")
        return spectrum.eigenvalues
    if unit is None:
        raise InvalidValue(
            f"{name} adapts: its limit needs the preconditioned spectrum, not the Hessian's. Give unit= (its frozen P, "
            "for example eps far above the gradients), or a spectrum with operator='preconditioned'"
        )
    if torch.as_tensor(unit).dim() and spectrum.covers != "all":
        raise InvalidValue(
            f"unit= per eigenvalue needs all of them; the spectrum covers {spectrum.covers!r}: give one number"
        )
    return preconditioned_eigenvalues(rule, spectrum.eigenvalues, unit)


def _notes(
    rule: LinearRule, spectrum: Spectrum, values: Tensor, radii: Tensor, *, counted_blind: bool
) -> tuple[str, ...]:
    """Flat and negative directions, and what the numbers rest on, in words."""
    notes = []
    size = float(values.abs().max())
    flat = values.abs() <= len(values) * torch.finfo(torch.float64).eps * size
    negative = (values < 0) & ~flat
    weights = spectrum.weights if spectrum.weights is not None else torch.ones_like(values)
    for chosen, kind in ((flat, "flat"), (negative, "negative")):
        if not bool(chosen.any()):
            continue
        number, worst = float(weights[chosen].sum()), float(radii[chosen].max())
        which = f"{number:g} direction(s) of {kind} curvature"
        if kind == "negative":
            which += f", down to {float(spectrum.values.min()):.4g}"
        if worst < 1 - 1e-12:
            notes.append(f"{which}: weight decay pulls them in, by at most {worst:.6g} per update.")
        elif kind == "flat" and worst < 1 + 1e-12:
            notes.append(f"{which}: the error along them neither shrinks nor grows, so that it never converges there.")
        else:
            notes.append(
                f"{which}: the rule leaves along them, by {worst:.6g} per update; this is a saddle, not a minimum."
            )
    if counted_blind and rule.decoupled and rule.weight_decay != 0 and rule.buffer_names:
        notes.append(
            "Counts take the buffers to start where decoupled decay lets them rest; origin= starts them empty."
        )
    if rule.adaptive:
        notes.append(
            "Local, with the preconditioner frozen: while it moves, the rule may do better or worse than this."
        )
        if rule.unit_only_grows:
            notes.append(
                "Its unit only grows, so that any lr ends up stable; rate and frozen_limit hold for the unit as it is."
            )
    return tuple(notes)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
