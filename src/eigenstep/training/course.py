"""The course of a run's loss in hindsight: from where to where, how high, and when it first rose out of all measure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from eigenstep.training.alarms import FEW, PART, SPREADS, WINDOW
from eigenstep.training.record import Record

RISE = (
    3.0  # times the usual: mini-batch noise stays below it; that nothing follows from a lower rise is seen afterwards
)
NEW_HIGH = 1.2  # times the highest so far


@dataclass(frozen=True)
class Rise:
    """The first update whose loss was out of all measure: its loss, and the median of up to WINDOW before it."""

    step: int
    loss: float
    usual: float

    @property
    def factor(self) -> float:
        """How many times the usual it was; nan where that says nothing."""
        return self.loss / self.usual if self.usual > 0 and math.isfinite(self.loss) else math.nan

    def words(self) -> str:
        """The rise as the beginning of a sentence."""
        if not math.isfinite(self.loss):
            return f"step {self.step}: the loss is {self.loss}"
        much = f", {self.factor:.3g} times its usual" if math.isfinite(self.factor) else f" after {self.usual:.4g}"
        return f"step {self.step}: the loss is {self.loss:.4g}{much}"


def losses_of(steps: Sequence[Record]) -> list[tuple[int, float]]:
    """The recorded losses with their updates."""
    return [(int(r["step"]), float(r["loss"])) for r in steps if r.get("loss") is not None]


def rise_of(steps: Sequence[Record]) -> Rise | None:
    """Return the first rise of a run's loss out of all measure, None if there is none.

    Alarms are raised as a run goes, so that they need FEW updates before anything counts as unusual, and miss a loss
    that grows steadily. Afterwards more is known. A loss that is not finite counts; so does a new high, RISE times the
    usual before it, if three quarters of the FEW losses from there on are as high, or if it stands alone among those up
    to WINDOW updates away: noise has more such highs, and falls back from them.

    >>> rise_of([{"step": 1, "loss": 3.5}, {"step": 2, "loss": 1402.0}, {"step": 3, "loss": 24.0}])
    Rise(step=2, loss=1402.0, usual=3.5)
    >>> rise_of([{"step": k, "loss": (0.1, 2.0)[k % 2]} for k in range(40)]) is None
    True
    """
    known = losses_of(steps)
    values = [math.inf if math.isnan(loss) else loss for _, loss in known]
    highest = -math.inf
    for i, (step, loss) in enumerate(known):
        before = values[max(i - WINDOW, 0) : i]
        usual = median(before) if before else math.nan
        if not math.isfinite(loss):
            return Rise(step, loss, usual)
        least = usual + max((RISE - 1) * abs(usual), PART * abs(values[0]))
        new_high = loss > least and loss > highest + (NEW_HIGH - 1) * abs(highest)
        if new_high and (_lasts(values[i : i + FEW], least) or _alone(loss, before + values[i + 1 : i + WINDOW])):
            return Rise(step, loss, usual)
        highest = max(highest, loss)
    return None


def course_of(steps: Sequence[Record]) -> str:
    """Words for where the loss began, where it ended, and how high it was in between; empty without losses.

    >>> course_of([{"step": 1, "loss": 3.5}, {"step": 2, "loss": 1402.0}, {"step": 3, "loss": 24.0}])
    'over updates 1 to 3 the loss went from 3.5 to 24, at its highest 1402 at update 2'
    """
    known = losses_of(steps)
    if not known:
        return ""
    (first, start), (last, end) = known[0], known[-1]
    words = f"over updates {first} to {last} the loss went from {start:.4g} to {end:.4g}"
    finite = [(step, loss) for step, loss in known if math.isfinite(loss)]
    if finite:
        step, most = max(finite, key=lambda pair: pair[1])
        words += f", at its highest {most:.4g} at update {step}"
    if odd := len(known) - len(finite):
        broke = next(step for step, loss in known if not math.isfinite(loss))
        words += f", not finite at {odd} of them, first at update {broke}"
    return words


def _lasts(values: list[float], least: float) -> bool:
    """Whether three quarters of the values are above `least`."""
    return sorted(values)[len(values) // 4] > least


def _alone(loss: float, around: list[float]) -> bool:
    """Whether a loss is far above the others by their own spread, and RISE times above three quarters of them."""
    if not around:
        return False
    middle, upper = median(around), sorted(around)[math.ceil(0.75 * len(around)) - 1]
    spread = 1.4826 * median([abs(v - middle) for v in around])
    return loss - middle > SPREADS * spread and loss > upper + (RISE - 1) * abs(upper)
