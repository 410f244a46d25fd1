"""What the covered part of a spectrum lets one answer about a rule: limits, rates, counts, words; else reasons."""

import math
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.rules import LinearRule
from eigenstep.spectrum import Spectrum
from eigenstep.theory.adaptive import preconditioned_eigenvalues
from eigenstep.theory.limits import frozen_limit, max_stable_lr
from eigenstep.theory.linear import iteration_matrix, spectral_radius
from eigenstep.theory.propagate import components, count, flow, peak, refuse_tolerances

MOVES = "P moves; simulate it"


def effective_eigenvalues(rule: LinearRule, spectrum: Spectrum, unit: float | Tensor | None) -> Tensor:
    """The eigenvalues that the rule's matrix is built from; lambda and a are never confused."""
    name = type(rule).__name__
    if not isinstance(spectrum, Spectrum):
        raise InvalidValue(
            f"a Spectrum is needed, not {type(spectrum).__name__}; make one with Spectrum.from_eigenvalues(values)"
        )
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


class Answers:
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

    def lacks(self, names: tuple[str, ...], reason: str) -> None:
        """Answer None to each name, for this reason."""
        self.found |= dict.fromkeys(names)
        self.reasons |= dict.fromkeys(names, reason)

    def _limits(self, spectrum: Spectrum) -> None:
        names = ("max_stable_lr", "max_stable_lr_interval", "frozen_limit")
        if spectrum.largest is None:
            return self.lacks(names, f"the spectrum covers {spectrum.covers!r}: its largest eigenvalue is not known")
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
            self.found["stable"] = bool(stable.all())
        else:
            reason = f"the spectrum covers {spectrum.covers!r}: eigenvalues that are not known may set it"
            self.lacks(("rate", "slowest"), reason)
            self.found["stable"] = None if bool(stable.all()) else False
            if self.found["stable"] is None:
                self.reasons["stable"] = (
                    f"every known direction is stable, but the spectrum covers {spectrum.covers!r} only"
                )

    def _worst_inside(self) -> float:
        """The largest spectral radius on a fine grid between the ends."""
        grid = torch.linspace(float(self.values.min()), float(self.values.max()), 2001, dtype=torch.float64)
        return float(spectral_radius(iteration_matrix(self.rule, grid)).max())


def fill_counts(
    answers: Answers,
    *,
    start: Any,
    loss: float | None,
    distance: float | None,
    origin: Any,
    point: str,
    within: int,
) -> None:
    """Fill in peak, steps, settled and estimate."""
    rule, values, found = answers.rule, answers.values, answers.found
    counted = ("steps", "settled", "estimate")
    refuse_tolerances(loss, distance)
    begin = None if start is None else components("start", start, values)
    center = None if origin is None else components("origin", origin, values)
    if point not in ("iterate", "stored"):
        raise InvalidValue(f"point={point!r} must be 'iterate' or 'stored'")
    if rule.adaptive:
        return answers.lacks((*counted, "peak"), MOVES)
    if not answers.complete:
        return answers.lacks((*counted, "peak"), "all eigenvalues are needed, and the spectrum does not hold them")
    found["peak"] = peak(flow(rule, values, point=point)) if found["rate"] < 1 else math.inf
    if begin is None or (loss is None and distance is None):
        return answers.lacks(counted, "give start= and a tolerance, loss= or radius=")
    moved = flow(rule, values, origin=center, point=point)
    counts = count(moved, values, begin, loss=loss, distance=distance, within=within)
    for name, number in (("steps", counts.first), ("settled", counts.settled)):
        found[name] = number
        if number is None:
            answers.reasons[name] = counts.reason
    return _estimate(answers, begin, loss, distance)


def _estimate(answers: Answers, start: Tensor, loss: float | None, distance: float | None) -> None:
    """The textbook count: as if the whole error shrank by R at each update."""
    rate = answers.found["rate"]
    if not 0 < rate < 1:
        return answers.lacks(("estimate",), f"at rate {rate:.6g} there is none")
    needed = []
    if loss is not None:
        begin = float((answers.values * start**2).sum()) / 2
        needed.append((math.log(loss) - math.log(begin)) / (2 * math.log(rate)) if begin > loss else 0.0)
    if distance is not None:
        length = float(start.norm())
        needed.append((math.log(distance) - math.log(length)) / math.log(rate) if length > distance else 0.0)
    answers.found["estimate"] = max(needed)
    return None


def notes(
    rule: LinearRule, spectrum: Spectrum, values: Tensor, radii: Tensor, *, counted_blind: bool
) -> tuple[str, ...]:
    """Flat and negative directions, and what the numbers rest on, in words."""
    notes: list[str] = []
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
                f"{which}: the rule diverges along them, by {worst:.6g} per update; this is a saddle, not a minimum."
            )
    if counted_blind and rule.decoupled and rule.weight_decay != 0 and rule.buffer_names:
        notes.append(
            "Counts take the buffers to start where decoupled decay lets them rest; origin= starts them empty."
        )
    made_for = (spectrum.preconditioner or {}).get("rule", rule.name)
    if made_for != rule.name:
        notes.append(f"The spectrum was preconditioned for {made_for}; {rule.name} would have another P.")
    if rule.adaptive:
        notes.append(
            "Local, with the preconditioner frozen: while it moves, the rule may do better or worse than this."
        )
        if rule.unit_only_grows and not rule.decoupled:
            notes.append(
                "Its unit only grows, so that any lr ends up stable; rate and frozen_limit hold for the unit as it is."
            )
    return tuple(notes)
