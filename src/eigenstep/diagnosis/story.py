"""One story of three numbers: the limit here and now, the warm-up that it asks for, the lr that a rehearsal found."""

import math
from dataclasses import dataclass
from typing import Any

from eigenstep.errors import InvalidValue


@dataclass(frozen=True)
class Rehearsed:
    """The lr that a rehearsal found best, a schedule's peak.

    - lr: of the first group that moves.
    - interval: where the best lr lies; None where it is not known.
    """

    lr: float
    interval: tuple[float, float] | None = None

    def holds(self, lr: float) -> bool:
        """Whether an lr lies in the interval."""
        low, high = self.interval or (self.lr, self.lr)
        return low <= lr <= high


def rehearsed_of(recommendation: Any) -> Rehearsed | None:
    """Return what a recommendation says, any object with .lr and .interval; None where it recommends no lr.

    Raises InvalidValue for what is none.
    """
    if recommendation is None:
        return None
    if not hasattr(recommendation, "lr"):
        raise InvalidValue(
            f"diagnose: recommendation= is {type(recommendation).__name__}, which has no lr; give what recommend "
            "returned"
        )
    lr, interval = recommendation.lr, getattr(recommendation, "interval", None)
    if lr is None:
        return None
    return Rehearsed(float(lr), None if interval is None else (float(interval[0]), float(interval[1])))


def story(limit: float | None, settled: tuple[int, float] | None, rehearsed: Rehearsed | None) -> str:
    """Return the sentence that joins the limit of now, the warm-up and the rehearsed lr.

    settled: updates on copies, and the largest stable lr after them.

    >>> story(0.1, (50, 0.4), Rehearsed(0.3))
    'Lr 0.3, found by rehearsal, lies past 0.1, the largest stable lr here and now, and may, since after 50 updates on \
copies that is 0.4: a warm-up over these updates is the careful way there.'
    """
    if rehearsed is None:
        return "" if limit is None else _without(limit, settled)
    head = f"Lr {rehearsed.lr:.3g}, found by rehearsal,"
    if limit is None:
        return f"{head} stands alone: the largest stable lr here and now is not known."
    if math.isinf(limit):
        return f"{head} needs no warm-up: no lr is too large here and now."
    if rehearsed.lr <= limit:
        return f"{head} needs no warm-up: {limit:.3g} is the largest stable lr here and now."
    past = f"{head} lies past {limit:.3g}, the largest stable lr here and now, and may, since"
    if settled is not None and settled[1] > limit:
        updates, later = settled
        return (
            f"{past} after {updates} updates on copies that is {later:.3g}: a warm-up over these updates is the "
            "careful way there."
        )
    return f"{past} training moves the curvature that this limit is of: a short warm-up is the careful way there."


def _without(limit: float, settled: tuple[int, float] | None) -> str:
    """The story as far as it goes without a rehearsal."""
    if math.isinf(limit):
        return "No lr is too large here and now; recommend rehearses which one trains best."
    later = "" if settled is None else f", {settled[1]:.3g} after {settled[0]} updates on copies"
    return f"The largest stable lr is {limit:.3g} here and now{later}; recommend rehearses which lr trains best."
