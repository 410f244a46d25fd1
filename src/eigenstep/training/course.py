"""The course of a run's loss in hindsight: from where to where, how high, and when it first rose out of all measure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from eigenstep.lines import Record
from eigenstep.training.alarms import FEW, PART, SPREADS, WINDOW

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


def rises_of(steps: Sequence[Record]) -> list[Rise]:
    """Return the rises of a run's loss out of all measure, in order.

    Alarms are raised as a run goes, so that they need FEW updates before anything counts as unusual, and miss a loss
    that grows steadily. Afterwards more is known. A loss that is not finite counts; so does a new high, RISE times the
    usual before it, if three quarters of the FEW losses from there on are as high, or if it stands alone among those up
    to WINDOW updates away: noise has more such highs, and falls back from them. A rise lasts until the loss has come
    back (see `recovers`); within it only a loss that ceases to be finite is another.

    >>> rises_of([{"step": 1, "loss": 3.5}, {"step": 2, "loss": 1402.0}, {"step": 3, "loss": 24.0}])
    [Rise(step=2, loss=1402.0, usual=3.5)]
    >>> rises_of([{"step": k, "loss": (0.1, 2.0)[k % 2]} for k in range(40)])
    []
    """
    known = losses_of(steps)
    values = [math.inf if math.isnan(loss) else loss for _, loss in known]
    found: list[Rise] = []
    highest, back = -math.inf, 0  # of the losses outside rises; from where on the last rise is over
    for i, (step, loss) in enumerate(known):
        before = values[max(i - WINDOW, 0) : i]
        usual = median(before) if before else math.nan
        if not math.isfinite(loss):
            if not i or math.isfinite(values[i - 1]):
                found.append(Rise(step, loss, usual))
            continue
        if i < back:
            continue
        least = _least(usual, values)
        new_high = loss > least and loss > highest + (NEW_HIGH - 1) * abs(highest)
        if new_high and (_lasts(values[i : i + FEW], least) or _alone(loss, before + values[i + 1 : i + WINDOW])):
            found.append(Rise(step, loss, usual))
            back = next((j for j in range(i + 1, len(values)) if _back(values, j, least)), len(values))
        else:
            highest = max(highest, loss)
    return found


def recovers(steps: Sequence[Record], jump: int, end: int) -> bool:
    """Whether, after a jump at an update, the loss came back before update `end`.

    It has, once it is finite and three quarters of FEW losses in a row are less than RISE times the usual before it.
    """
    known = losses_of(steps)
    values = [math.inf if math.isnan(loss) else loss for _, loss in known]
    before = [value for (step, _), value in zip(known, values, strict=True) if step < jump][-WINDOW:]
    after = [value for (step, _), value in zip(known, values, strict=True) if jump < step < end]
    least = _least(median(before), values) if before else math.inf
    return any(_back(after, j, least) for j in range(len(after)))


def broke_at(steps: Sequence[Record]) -> int | None:
    """Return the update from which loss or gradient are not finite to the run's end; None for a run that ends finite.

    >>> broke_at([{"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": math.inf}])
    3
    """
    found: int | None = None
    for record in reversed(steps):
        values = [v for v in (record.get("loss"), record.get("grad_norm")) if v is not None]
        if all(map(math.isfinite, values if found is not None else values[:1])):
            return found
        found = int(record["step"])
    return found


def height(steps: Sequence[Record], first: int, end: int) -> float | None:
    """How far the loss rose from update `first` on, before `end`: over the usual before, in parts of it."""
    known = losses_of(steps)
    before = [loss for step, loss in known if step < first and math.isfinite(loss)][-WINDOW:]
    after = [loss for step, loss in known if first <= step < end]
    if not after:
        return None
    usual = median(before) if before else 0.0
    most = max(math.inf if math.isnan(loss) else loss for loss in after)
    return (most - usual) / max(abs(usual), 1e-300)


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


def _least(usual: float, values: list[float]) -> float:
    """What a loss must exceed to count as risen: RISE times its usual, and PART of the first."""
    return usual + max((RISE - 1) * abs(usual), PART * abs(values[0]))


def _back(values: list[float], i: int, least: float) -> bool:
    """Whether from `i` on FEW losses are finite and, but for a quarter, no higher than `least`."""
    few = values[i : i + FEW]
    return len(few) == FEW and math.isfinite(max(few)) and sorted(few)[math.ceil(0.75 * FEW) - 1] <= least


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
