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
    'Begin below lr 0.1, the largest stable one here and now, and raise it over the first 50 updates or so to 0.3, \
which rehearsal found best: after 50 updates on copies the largest stable lr is 0.4.'
    """
    if limit is None:
        return "" if rehearsed is None else f"Train with lr {rehearsed.lr:.3g}, which rehearsal found best."
    stable = "no lr is too large here and now" if math.isinf(limit) else f"{limit:.3g} is the largest stable lr"
    if rehearsed is None:
        return _without(limit, settled)
    if rehearsed.lr <= limit:
        return (
            f"Train with lr {rehearsed.lr:.3g}, which rehearsal found best; it needs no warm-up, since {stable}"
            f"{'' if math.isinf(limit) else ' here and now'}."
        )
    begin = f"Begin below lr {limit:.3g}, the largest stable one here and now, and raise it over the first "
    if settled is None:
        return f"{begin}updates to {rehearsed.lr:.3g}, which rehearsal found best though it lies past that limit."
    updates, later = settled
    why = (
        f"after {updates} updates on copies the largest stable lr is {later:.3g}"
        if later > limit
        else "the limit is of a frozen preconditioner or curvature, and training moves both"
    )
    return f"{begin}{updates} updates or so to {rehearsed.lr:.3g}, which rehearsal found best: {why}."


def _without(limit: float, settled: tuple[int, float] | None) -> str:
    """The story as far as it goes without a rehearsal."""
    if math.isinf(limit):
        return "No lr is too large here and now; recommend rehearses which one trains best."
    later = "" if settled is None else f", {settled[1]:.3g} after {settled[0]} updates on copies"
    return f"The largest stable lr is {limit:.3g} here and now{later}; recommend rehearses which lr trains best."
