"""The search for a learning rate by rehearsal: find the edge, halve the candidates below it, verify the winner."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from eigenstep.rehearsal import Bottomless, Lane, Rehearsal, Spent

# Of the budget of steps, for 500: trials of 10 steps find the edge, then 6 candidates are run to 15 steps, 4 of them to
# 40, 2 to 125; what is left verifies the answer. On the development tasks of benchmarks/advice such plans (5 to 7
# candidates, 100 to 175 steps) all scored within .03; extrapolating the curves, or leaning towards lower or higher lr
# at every comparison, only lost. The margin cost .005 of the mean there, and raised the worst tenth.
TRIAL = 0.02
RUNGS = ((6, 0.03), (4, 0.08), (2, 0.25))
FAST_RUNGS = ((3, 0.06), (2, 0.25))
SPACING = 2.0
MARGIN = 2**0.5  # the answer stays this far below the winner: sharpness goes on rising after a rehearsal ends
_SHORTEST = 10  # steps below which a verification says nothing: then the winner, run itself from the start, stands
ABOVE = 4.0  # candidates begin this far above the best trial, or at the edge
FEWEST = 60  # steps without which nothing can be said
_TRIALS = 0.3  # the share of the budget that finding the edge may take
_DECADES = 14.0  # how far from the first guess the edge is looked for
ALIKE = 0.1  # of the fall of the (log) loss: candidates closer than this were not told apart


@dataclass
class LrSearch:
    """What a search knows at any moment, so that an interruption leaves it usable."""

    rehearsal: Rehearsal
    base: float
    fast: bool
    horizon: int
    lanes: dict[int, Lane] = field(default_factory=dict)
    order: list[Lane] = field(default_factory=list)  # the survivors of the last finished rung, best first
    checks: list[Lane] = field(default_factory=list)  # the verification runs
    chosen: Lane | None = None
    stage: str = "nothing was run"
    missing: str | None = None
    verified: bool = False
    unbounded: str | None = None  # what was seen of a loss without a floor
    watch: Callable[[Lane], None] | None = None  # called with the leader after each rung

    @property
    def spacing(self) -> float:
        """The ratio of neighbouring candidates."""
        return SPACING**2 if self.fast else SPACING

    def run(self) -> None:
        """Search until done, or until steps, time or patience are used up; then `missing` says what was left out."""
        try:
            self._bracket()
            if self.good():
                self._halve()
                self._verify()
        except Bottomless as seen:
            self.unbounded = str(seen)
        except Spent as spent:
            self.missing = f"{spent}, {self.stage}"

    def good(self) -> list[int]:
        """The exponents whose runs lowered the loss, in order."""
        return sorted(k for k, lane in self.lanes.items() if lane.loss < self.rehearsal.start)

    @property
    def edge(self) -> tuple[float, float] | None:
        """The largest lr whose run lowered the loss, and the smallest beyond it whose run did not."""
        good = self.good()
        if not good:
            return None
        worse = [lane.lr for k, lane in self.lanes.items() if k > good[-1]]
        return self.lanes[good[-1]].lr, min(worse, default=math.inf)

    def lane(self, k: int) -> Lane:
        """The lane at base * SPACING^k."""
        if k not in self.lanes:
            self.lanes[k] = self.rehearsal.lane(self.base * SPACING**k)
        return self.lanes[k]

    def _length(self, share: float) -> int:
        return max(3, min(round(share * self.rehearsal.budget.steps), self.horizon))

    def _trial(self, k: int) -> bool:
        """Whether a larger lr may still do: a short run at this exponent lowers the loss, or leaves it where it was."""
        lane = self.lane(k)
        self.rehearsal.run(lane, self._length(TRIAL))
        if lane.diverged:
            lane.free()
        return lane.loss <= self.rehearsal.start  # equal: too small a step to tell, as on a plateau

    def _bracket(self) -> None:
        """Find two exponents next to each other, the lower of which does not raise the loss and the upper does."""
        self.stage = "while the edge was being looked for"
        allowed = _TRIALS * self.rehearsal.budget.steps
        far = _DECADES / math.log10(SPACING)
        k, up = 0, self._trial(0)
        while self.rehearsal.budget.used < allowed and abs(k) < far:
            step = 2 if up else -2
            if self._trial(k + step) != up:
                self._trial(k + step // 2)
                break
            k += step
            if up and self._past_it(k):
                break
        k = min(self.lanes)
        while not self.good() and self.rehearsal.budget.used < allowed and abs(k) < far:
            k -= 2  # the loss stood still at first, because the step was too long: it came back to where it had been
            self._trial(k)

    def _past_it(self, k: int) -> bool:
        """Whether the loss has been getting worse for a factor of 64: what lies above is not worth looking at."""
        losses = [self.lanes[k - i].loss for i in (0, 2, 4, 6) if k - i in self.lanes]
        return len(losses) == 4 and all(a > b for a, b in pairwise(losses))

    def _halve(self) -> None:
        """Compare candidates on longer and longer runs."""
        self.stage = "before any candidates were compared"
        good = self.good()
        best = min(good, key=lambda k: self.lanes[k].loss)
        rungs, stride = (FAST_RUNGS, 2) if self.fast else (RUNGS, 1)
        top = min(good[-1], best + round(math.log(ABOVE, SPACING)))
        chosen = [self.lane(top - stride * i) for i in range(rungs[0][0])]
        for lane in [lane for lane in self.lanes.values() if lane not in chosen]:
            lane.free()
        for number, share in rungs:
            length = self._length(share)
            for lane in chosen[number:]:
                lane.free()
            chosen = chosen[:number]
            for lane in chosen:
                self.rehearsal.run(lane, length)
            chosen = sorted(chosen, key=self.rank)
            self.order = list(chosen)
            self.stage = f"after {len(chosen)} candidates had been compared over {length} steps each"
            if self.watch is not None and not chosen[0].diverged:
                self.watch(chosen[0])

    def _verify(self) -> None:
        """Run the lr a margin below the winner's from the start; one that diverges makes way for the next best's."""
        self.stage = "before the chosen lr was verified"
        budget = self.rehearsal.budget
        for lane in list(self.order):
            check = lane
            if budget.left >= min(_SHORTEST, self.horizon):
                check = self.rehearsal.lane(lane.lr / MARGIN)
                self.checks.append(check)
                self.rehearsal.run(check, min(budget.left, self.horizon))
            if check.loss < self.rehearsal.start:
                self.chosen, self.verified = check, True
                return
            self.order.remove(lane)

    @property
    def everything(self) -> list[Lane]:
        """Every lane that was run, by lr."""
        return sorted((x for x in [*self.lanes.values(), *self.checks] if x.step), key=lambda lane: lane.lr)

    def level(self, loss: float) -> float:
        """The loss on the scale on which candidates are compared: its logarithm, as long as losses are positive."""
        positive = self.rehearsal.start > 0 and all(v > 0 for lane in self.everything for v in lane.losses)
        if not math.isfinite(loss):
            return math.inf
        return math.log(loss) if positive else loss

    def rank(self, lane: Lane) -> float:
        """Half the loss now, half the worst of the run's second half: a run that jumps is too close to the edge."""
        return (self.level(lane.loss) + max(self.level(v) for v in lane.tail())) / 2

    def interval(self, best: Lane, chosen: Lane) -> tuple[float, float]:
        """The lrs not told apart from the winner, widened to the middle of the gap to the next; below what diverged."""
        fall = self.level(self.rehearsal.start) - self.level(best.loss)
        alike = [chosen.lr, best.lr, *(lane.lr for lane in self.order if self._gap(lane, best) <= ALIKE * fall)]
        half = math.sqrt(self.spacing)
        left = [lane.lr for lane in self.everything if lane.lr > chosen.lr and lane.loss >= self.rehearsal.start]
        return min(alike) / half, min([max(alike) * half, *left])

    def _gap(self, lane: Lane, best: Lane) -> float:
        """How much worse a candidate was where both were last compared."""
        if lane.step not in best.points:
            return math.inf
        return abs(self.level(lane.loss) - self.level(best.losses[best.points.index(lane.step)]))
