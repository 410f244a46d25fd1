"""What becomes of a small error: whether it returns to the minimum or diverges, and by what factor per update."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eigenstep.verify.motion import Motion

LEAVES, UNDECIDED, RETURNS = 1, 0, -1
TENFOLD = 10.0
FARTHEST = 1e4  # times the distance at the start: beyond any overshoot of a stable method here; it has diverged
_BEAT = 20  # updates; within 1% of its limit, heavy ball .9 beats with a period of 18


class Fates(NamedTuple):
    """Per lane: LEAVES, UNDECIDED or RETURNS, and the updates taken."""

    fate: Tensor
    updates: Tensor


def follow(motion: Motion, gradient: Callable[[Tensor], Tensor], minimum: Tensor, updates: int, settle: int) -> Fates:
    """Run every lane for up to 2 * `updates` and say whether its distance to the minimum shrinks or grows.

    In the first `settle` updates a method with momentum may overshoot from rest although it is stable (heavy ball .9
    by 19 times), so it is judged after them: a lane LEAVES once it is tenfold as far as it began, and RETURNS once it
    is a tenth as far, or if at the end it is nearer than at the start and than halfway (the largest over a window at
    each). A lane that did neither is UNDECIDED: too close to the edge, or caught in a small orbit.
    """
    lanes, total, window = len(motion.points), 2 * updates, max(1, updates // 4)
    alive = torch.arange(lanes)
    fate, taken = torch.full((lanes,), UNDECIDED), torch.full((lanes,), total)
    begin = (motion.points - minimum).norm(dim=-1)
    halfway, end = torch.zeros_like(begin), torch.zeros_like(begin)
    for t in range(1, total + 1):
        motion.step(gradient(motion.points))
        distance = (motion.points - minimum).norm(dim=-1)
        for largest, last in ((halfway, updates), (end, total)):
            if last - window < t <= last:
                largest[alive] = torch.maximum(largest[alive], distance)
        grown = distance / begin[alive]
        gone = ~(grown <= (TENFOLD if t > settle else FARTHEST))
        back = (grown < 1 / TENFOLD) & (t > settle)
        decided = gone | back
        if bool(decided.any()):
            fate[alive[gone]], fate[alive[back]], taken[alive[decided]] = LEAVES, RETURNS, t
            alive = alive[~decided]
            if not len(alive):
                break
            motion.keep(~decided)
    shrunk = end[alive] < torch.minimum(halfway, begin)[alive]
    fate[alive[shrunk]] = RETURNS
    return Fates(fate, taken)


def factors(motion: Motion, gradient: Callable[[Tensor], Tensor], minimum: Tensor, updates: int) -> Tensor:
    """Return by what factor each lane's distance changes per update, once the memory of the start has faded.

    The slope of the logarithm of the distance (the largest of the last _BEAT updates, since it may oscillate), by least
    squares over the later half of the time until the lane has grown by TENFOLD^3 or shrunk to 1 / TENFOLD^3; 0 for a
    lane that has shrunk as far as that in one update.
    """
    distances = [(motion.points - minimum).norm(dim=-1)]
    for _ in range(updates):
        motion.step(gradient(motion.points))
        distances.append((motion.points - minimum).norm(dim=-1))
    grown = torch.stack(distances) / distances[0]
    grown = torch.cat([grown[: _BEAT - 1].cummax(0).values, grown.unfold(0, _BEAT, 1).amax(-1)])
    inside = (grown > TENFOLD**-3) & (grown < TENFOLD**3)
    ends = inside.int().cumprod(0).sum(0)  # the first update outside, or all
    time = torch.arange(updates + 1, dtype=torch.float64).unsqueeze(-1)
    shrunk = grown.gather(0, (ends - 1).unsqueeze(0)).squeeze(0) <= 1
    begins = torch.where(shrunk, (ends // 2).clamp(min=_BEAT - 1), ends // 2)  # before, the start is the largest
    used = ((time >= begins) & (time < ends)).to(torch.float64)
    logs = torch.where(used > 0, grown, 1.0).log()
    centred = used * (time - (used * time).sum(0) / used.sum(0))
    spread = centred.square().sum(0)
    slope = torch.where(spread > 0, (centred * logs).sum(0) / spread, -torch.inf)
    return slope.exp()
