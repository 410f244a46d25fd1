"""`Limit`: where an optimizer stands, with every number's interval and how it was obtained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from eigenstep.curvature import Measurement
from eigenstep.errors import InvalidValue
from eigenstep.result import Result, Words, number

Interval = tuple[float, float]
MOSTLY = 0.5  # of a direction's square: then the rest of it has less to do with the ratio


@dataclass(frozen=True, eq=False, repr=False)
class Limit(Result):
    """Where an optimizer stands: `ratio` = the s such that multiplying all groups' lr by 1 / s reaches the edge.

    ratio: 1 is the edge for every method; None at lr = 0, with the reason. interval: from the eigenvalue's bound.
    max_stable_lr: the first moving group's lr at the edge, all groups scaled together; infinite without a limit.
    sharpness: largest eigenvalue of the loss's own Hessian, without decay, +- sharpness_bound; coupled_decay: the
    largest w that the optimizer adds to it. preconditioned_sharpness: of P^-1/2 (H + wI) P^-1/2, for adaptive rules.
    rules: each param group's, as data (Rule.as_dict).
    alone: each group's own ratio, never to be combined, by its place in param_groups.
    fresh, early: how far second moments have come. adapts: the limit holds for a frozen preconditioner only.
    provisional: the share of the direction nearest to the edge (squared, in units of P) in coordinates whose P the next
    update makes anew or more than doubles, since they have no second moment yet, or a decayed one.
    certified: whether the eigenvalue was confirmed to be the largest. edge, hessian: the measurements, with vectors.
    """

    kind: ClassVar[str] = "limit"

    ratio: float | None
    interval: Interval | None
    max_stable_lr: float
    max_stable_lr_interval: Interval
    lr: float
    sharpness: float | None
    sharpness_bound: float | None
    coupled_decay: float
    preconditioned_sharpness: float | None
    preconditioned_bound: float | None
    rules: tuple[Mapping[str, Any], ...]
    alone: Mapping[int, float]
    fresh: bool
    early: bool
    provisional: float
    adapts: bool
    certified: bool
    products: int
    seconds: float
    notes: tuple[str, ...]
    reasons: Mapping[str, str]
    edge: Measurement = field(repr=False)
    hessian: Measurement | None = field(repr=False, default=None)
    preconditioned: Measurement | None = field(repr=False, default=None)

    @property
    def young(self) -> bool:
        """Whether the ratio rests on second moments that are young, or past 1 on such as the next update makes anew."""
        past = self.provisional > MOSTLY and (self.ratio or 0.0) > 1
        return self.adapts and (self.fresh or self.early or past)

    @property
    def direction(self) -> Tensor:
        """The unit move of the parameters (n,) nearest to the edge. Raises InvalidValue for a limit from a file."""
        if self.edge.directions is None:
            raise InvalidValue("Limit.direction: a limit that was loaded holds no vectors; ask limit_now again")
        return self.edge.directions[0]

    def rows(self) -> list[tuple[str, str]]:
        """The numbers with their intervals, as pairs of what and how much."""
        rows = []
        if self.ratio is not None and self.interval is not None:
            low, high = self.interval
            how = "certified" if self.certified else "residuals only"
            rows.append(("stability ratio", f"{self.ratio:.4g}, {low:.4g} to {high:.4g} ({how}); 1 is the edge"))
        low, high = self.max_stable_lr_interval
        rows.append(("largest stable lr", f"{self.max_stable_lr:.4g}, {low:.4g} to {high:.4g}; lr is {self.lr:.4g}"))
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
