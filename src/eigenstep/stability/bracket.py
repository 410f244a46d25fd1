"""Where a loss that falls at first comes to lie above its start: bracketed by values of it alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

_SCAN = 2**0.5  # multiples below the crossing are looked at in this ratio,
_DEPTH = 8  # this many of them: down to a sixteenth
FAR = 40  # doublings, once the update is as long as the weights, after which the loss is taken never to rise
_NEAR, _STRIDE = 20, 16.0  # doublings that are looked at one by one; beyond, every fourth


@dataclass(frozen=True)
class Bracket:
    """The bracket found: the loss does not rise at `low`, nor at smaller multiples looked at, and does at `high`."""

    low: float = 0.0
    high: float = math.inf
    passes: int = 0
    converged: bool = False
    scanned: float | None = None
    notes: tuple[str, ...] = ()
    reason: str | None = None


def smallest_rise(
    along: Callable[[float], float],
    origin: float,
    slope: float,
    noise: float,
    tol: float,
    most: int,
    *,
    far: float = 2.0**FAR,
) -> Bracket:
    """Bracket the smallest s > 0 with along(s) > origin, for a loss that falls at first (slope < 0).

    noise: changes of the loss below it mean nothing, so that no s with s |slope| < noise can be judged. most: the
    evaluations allowed. far: the multiple from which on the loss is taken never to rise.

    >>> found = smallest_rise(lambda s: (s - 1) ** 2, 1.0, -2.0, 1e-15, 0.01, 50)
    >>> found.low <= 2 <= found.high, found.converged
    (True, True)
    """
    seen: dict[float, float] = {}

    def rises(s: float) -> bool:
        if s not in seen:
            seen[s] = along(s)
        return not seen[s] <= origin

    def crossing(s: float) -> float:
        """Where a parabola through what was seen at s would rise past its start; 0 if it does not, or in noise."""
        bent = (seen[s] - origin) - s * slope
        return s * (-slope * s / bent) if noise < bent < math.inf else 0.0

    floor = noise / -slope
    s = max(1.0, floor)
    first = rises(s)
    if (guess := crossing(s)) > 0:
        s = max(guess * (1 - tol / 2), floor)  # just below
        first = rises(s)
    low, high = (0.0, s) if first else (s, math.inf)
    while low == 0.0 and len(seen) < most:
        if high / 2 < floor:
            reason = "the loss changes by less than its rounding where the step might raise it; use float64"
            return Bracket(0.0, high, len(seen), reason=reason)
        low, high = (0.0, high / 2) if rises(high / 2) else (high / 2, high)
    step = 1 + tol  # the parabola is often right: then the first try closes the bracket
    while math.isinf(high) and len(seen) < most:
        if low * step > far:
            return Bracket(low, math.inf, len(seen), True, min(seen), ("the loss never rose along the update",))
        low, high = (low, low * step) if rises(low * step) else (low * step, math.inf)
        step = 2.0 if low < 2.0**_NEAR else _STRIDE
        if math.isinf(high) and (guess := crossing(low) * (1 - tol / 2)) > step * low:
            low, high, step = (low, guess, 2.0) if rises(guess) else (guess, math.inf, 1 + tol)
    if math.isinf(high):
        reason = f"the loss had not risen at {low:.3g} times the update, where {most} forward passes were spent"
        return Bracket(low, high, len(seen), reason=reason)
    k, top = 1, low
    while k <= _DEPTH and low > 0 and len(seen) < most:
        s = top / _SCAN**k
        if s < floor:
            break
        if rises(s):
            low, high, top, k = s / _SCAN, s, s / _SCAN, 0
            while rises(low) and low > floor and len(seen) < most:
                low, high = low / _SCAN, low
            top = low
        k += 1
    while low > 0 and math.isfinite(high) and high / low > 1 + tol and len(seen) < most:
        s = math.sqrt(low * high)
        low, high = (low, s) if rises(s) else (s, high)
    done = low > 0 and math.isfinite(high) and high / low <= (1 + tol) * (1 + 1e-9)
    notes = () if done else (f"stopped after {most} forward passes, before the bracket was narrow enough",)
    scanned = min((s for s in seen if s <= low), default=None)
    return Bracket(low, high, len(seen), done, scanned, notes)
