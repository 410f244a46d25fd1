"""`Limit`: where an optimizer stands, in four parts, with every number's interval and how it was obtained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from eigenstep.curvature import Measurement
from eigenstep.errors import InvalidValue
from eigenstep.plain import among
from eigenstep.result import Result, Words, number

Interval = tuple[float, float]
MOSTLY = 0.5  # of a direction's square: then the rest of it has less to do with the ratio


@dataclass(frozen=True)
class Stability:
    """How far the lr is from the edge, all param groups scaled together.

    - ratio: the s such that multiplying all groups' lr by 1 / s reaches the edge; None at lr = 0.
    - interval: of the ratio, from the eigenvalue's bound.
    - max_stable_lr: of the first group that moves, at the edge; infinite without a limit.
    - max_stable_lr_interval: from the same bound.
    - lr: of that group, now.
    - alone: each group's own ratio by its place in param_groups, never to be combined.
    """

    ratio: float | None
    interval: Interval | None
    max_stable_lr: float
    max_stable_lr_interval: Interval
    lr: float
    alone: Mapping[int, float]


@dataclass(frozen=True)
class Curvature:
    """The largest eigenvalues behind a limit, and the decay that is added to them.

    - sharpness: of the loss's own Hessian, without decay, within +- sharpness_bound.
    - coupled_decay: the largest w that the optimizer adds to it.
    - preconditioned_sharpness: of P^-1/2 (H + wI) P^-1/2, for adaptive rules, within +- preconditioned_bound.
    """

    sharpness: float | None
    sharpness_bound: float | None
    coupled_decay: float
    preconditioned_sharpness: float | None
    preconditioned_bound: float | None


@dataclass(frozen=True)
class SecondMoments:
    """How far second moments, where a rule has them, have come.

    - adapts: the limit holds for a frozen preconditioner only.
    - fresh: no adaptive group has taken an update yet.
    - early: second moments, or a rule's coefficients, are still far from their late form.
    - provisional: share of the direction nearest to the edge (squared, in units of P) in coordinates whose P the next
      update makes anew or more than doubles, since they have no second moment yet, or a decayed one.
    """

    adapts: bool
    fresh: bool
    early: bool
    provisional: float


@dataclass(frozen=True)
class Measured:
    """The measurements behind a limit, with their vectors: of the edge, and of each Hessian that it did not give."""

    edge: Measurement = field(repr=False)
    hessian: Measurement | None = field(repr=False, default=None)
    preconditioned: Measurement | None = field(repr=False, default=None)


@dataclass(frozen=True, eq=False, repr=False)
class Limit(Result):
    """Where an optimizer stands: `ratio` = the s such that multiplying all groups' lr by 1 / s reaches the edge.

    What the first three parts hold is read off the limit, too (`limit.ratio`), and so is the edge's measurement.

    - stability: ratio, largest stable lr, lr; 1 is the edge for every method.
    - curvature: sharpness, preconditioned sharpness, coupled decay.
    - second_moments: how far they have come, for rules that adapt.
    - measured: the measurements.
    - rules: each param group's, as data (Rule.as_dict).
    - certified: whether every eigenvalue was confirmed to be the largest.
    - products, seconds: the cost.
    - notes: what the reader should know.
    - reasons: why a number is None, by its name.
    """

    kind: ClassVar[str] = "limit"

    stability: Stability = field(metadata=among())
    curvature: Curvature = field(metadata=among())
    second_moments: SecondMoments = field(metadata=among())
    measured: Measured = field(metadata=among())
    rules: tuple[Mapping[str, Any], ...]
    certified: bool
    products: int
    seconds: float
    notes: tuple[str, ...]
    reasons: Mapping[str, str]

    @property
    def ratio(self) -> float | None:
        """The lr over the largest stable one: 1 is the edge; None at lr = 0."""
        return self.stability.ratio

    @property
    def interval(self) -> Interval | None:
        """Where the ratio lies, from the eigenvalue's bound."""
        return self.stability.interval

    @property
    def max_stable_lr(self) -> float:
        """The first moving group's lr at the edge, all groups scaled together; may be infinite."""
        return self.stability.max_stable_lr

    @property
    def max_stable_lr_interval(self) -> Interval:
        """Where the largest stable lr lies, from the eigenvalue's bound."""
        return self.stability.max_stable_lr_interval

    @property
    def lr(self) -> float:
        """The lr of the first group that moves, now."""
        return self.stability.lr

    @property
    def alone(self) -> Mapping[int, float]:
        """Each group's own ratio by its place in param_groups; never to be combined."""
        return self.stability.alone

    @property
    def sharpness(self) -> float | None:
        """The largest eigenvalue of the loss's own Hessian, without decay."""
        return self.curvature.sharpness

    @property
    def sharpness_bound(self) -> float | None:
        """How far the sharpness may be off."""
        return self.curvature.sharpness_bound

    @property
    def coupled_decay(self) -> float:
        """The largest w that the optimizer adds to the Hessian."""
        return self.curvature.coupled_decay

    @property
    def preconditioned_sharpness(self) -> float | None:
        """The largest eigenvalue of P^-1/2 (H + wI) P^-1/2, for adaptive rules."""
        return self.curvature.preconditioned_sharpness

    @property
    def preconditioned_bound(self) -> float | None:
        """How far the preconditioned sharpness may be off."""
        return self.curvature.preconditioned_bound

    @property
    def adapts(self) -> bool:
        """Whether the limit holds for a frozen preconditioner only."""
        return self.second_moments.adapts

    @property
    def fresh(self) -> bool:
        """Whether no adaptive group has taken an update yet."""
        return self.second_moments.fresh

    @property
    def early(self) -> bool:
        """Whether second moments, or a rule's coefficients, are still far from their late form."""
        return self.second_moments.early

    @property
    def provisional(self) -> float:
        """The share of the direction whose P the next update makes anew, or more than doubles."""
        return self.second_moments.provisional

    @property
    def edge(self) -> Measurement:
        """The measurement of the edge, whose largest eigenvalue is the ratio."""
        return self.measured.edge

    @property
    def young(self) -> bool:
        """Whether the ratio rests on second moments that are young, or past 1 on such as the next update makes anew."""
        moments, past = self.second_moments, (self.ratio or 0.0) > 1
        return moments.adapts and (moments.fresh or moments.early or (past and moments.provisional > MOSTLY))

    @property
    def direction(self) -> Tensor:
        """The unit move of the parameters (n,) nearest to the edge. Raises InvalidValue for a limit from a file."""
        if self.edge.directions is None:
            raise InvalidValue("Limit.direction: a limit that was loaded holds no vectors; ask limit_now again")
        return self.edge.direction()

    def rows(self) -> list[tuple[str, str]]:
        """The numbers with their intervals, as pairs of what and how much."""
        rows = []
        if self.ratio is not None and self.interval is not None:
            low, high = self.interval
            how = "certified" if self.certified else "residuals only"
            rows.append(("stability ratio", f"{self.ratio:.4g}, {low:.4g} to {high:.4g} ({how}); 1 is the edge"))
        low, high = self.max_stable_lr_interval
        stable = f"{self.max_stable_lr:.4g}, {low:.4g} to {high:.4g}" if low < math.inf else "none here"
        rows.append(("largest stable lr", f"{stable}; lr is {self.lr:.4g}"))
        if self.sharpness is not None:
            rows.append(("sharpness", f"{self.sharpness:.4g} ± {self.sharpness_bound:.2g}"))
        if self.preconditioned_sharpness is not None:
            words = f"{self.preconditioned_sharpness:.4g} ± {self.preconditioned_bound:.2g}"
            rows.append(("preconditioned sharpness", words))
        return rows

    def words(self) -> Words:
        """Return where the optimizer stands."""
        who = " and ".join(dict.fromkeys(str(rule["name"]) for rule in self.rules))
        stands = f"stability ratio {number(self.ratio)}, largest stable lr {self.max_stable_lr:.4g}"
        notes = [*self.notes, *(f"{name}: {reason}" for name, reason in self.reasons.items())]
        alone = [(f"group {i} alone", number(ratio)) for i, ratio in self.alone.items()]
        sentence = f"{who} at lr {self.lr:.4g}: {stands} (1 is the edge)"
        return Words(f"{who}: {stands}, lr {self.lr:.4g}", sentence, [*self.rows(), *alone], notes=notes)

    def plot(self, ax: Any = None) -> Any:
        """Draw the largest stable lr on its interval, and the lr as it is; return the axes."""
        from eigenstep import draw

        ax = draw.ranges({"largest stable": (self.max_stable_lr, *self.max_stable_lr_interval)}, ax)
        draw.line_at(self.lr, ax, text="lr now", color=draw.VERMILION)
        return draw.describe(ax, "lr of the first group that moves", "")
