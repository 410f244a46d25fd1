"""What becomes of a small error: whether it returns to the minimum or leaves it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eigenstep.verify.motion import Motion

LEAVES, UNDECIDED, RETURNS = 1, 0, -1
TENFOLD = 10.0
FARTHEST = 1e4  # times the distance at the start: beyond any transient of a stable method here; it has left


class Fates(NamedTuple):
    """Per lane: LEAVES, UNDECIDED or RETURNS; the growth factor per update; the updates taken."""

    fate: Tensor
    growth: Tensor
    updates: Tensor


def follow(motion: Motion, gradient: Callable[[Tensor], Tensor], minimum: Tensor, updates: int, settle: int) -> Fates:
    """Run every lane for up to 2 * `updates` and say whether its distance to the minimum shrinks or grows.

    In the first `settle` updates a method with momentum may overshoot from rest although it is stable (heavy ball .9
    by 19 times), so it is judged after them: a lane LEAVES once it is tenfold as far as it began, and RETURNS once it
    is a tenth as far, or if at the end it is nearer than at the start and than halfway (the largest over a window at
    each). A lane that did neither is UNDECIDED: too close to the edge, or caught in a small orbit. growth is the
    slope of the logarithm of the distance after `settle`.
    """
    lanes, total = len(motion.points), 2 * updates
    alive = torch.arange(lanes)
    fate = torch.zeros(lanes, dtype=torch.int8)
    taken = torch.full((lanes,), total)
    history = torch.full((total + 1, lanes), torch.nan, dtype=torch.float64)
    history[0] = (motion.points - minimum).norm(dim=-1)
    for t in range(1, total + 1):
        motion.step(gradient(motion.points))
        distance = (motion.points - minimum).norm(dim=-1)
        history[t, alive] = distance
        grown = distance / history[0, alive]
        gone = ~(grown <= (TENFOLD if t > settle else FARTHEST))
        back = (grown < 1 / TENFOLD) & (t > settle)
        decided = gone | back
        if bool(decided.any()):
            fate[alive[gone]], fate[alive[back]], taken[alive[decided]] = LEAVES, RETURNS, t
            alive = alive[~decided]
            if not len(alive):
                break
            motion.keep(~decided)
    window = max(1, updates // 4)
    halfway = history[updates - window + 1 : updates + 1, alive].amax(0)
    nearer = torch.minimum(halfway, history[0, alive])
    fate[alive[history[total - window + 1 :, alive].amax(0) < nearer]] = RETURNS
    return Fates(fate, _growth(history, settle), taken)


def _growth(history: Tensor, settle: int) -> Tensor:
    """exp of the least-squares slope of ln(distance) after `settle` updates; nan for a lane decided before."""
    logs = history[settle:].clamp(min=1e-300).log()
    logs = torch.where(logs.isfinite(), logs, torch.nan)
    time = torch.where(logs.isnan(), torch.nan, torch.arange(len(logs), dtype=torch.float64).unsqueeze(-1))
    centred = time - time.nanmean(0)
    slope = (centred * logs).nansum(0) / (centred * centred).nansum(0)
    return torch.where((~logs.isnan()).sum(0) > 2, slope.exp(), torch.nan)
