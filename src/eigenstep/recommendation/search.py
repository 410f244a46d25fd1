"""The search for a learning rate by rehearsal: find the edge, compare twice, take the middle of the best, run it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from eigenstep.bridge.param_groups import adapts
from eigenstep.recommendation import plan
from eigenstep.rehearsal import Bottomless, Lane, Rehearsal, Spent
from eigenstep.rehearsal.lanes import unbounded


@dataclass
class LrSearch:
    """What a search knows at any moment, so that an interruption leaves it usable."""

    rehearsal: Rehearsal
    base: float
    fast: bool
    lanes: dict[tuple[bool, float], Lane] = field(default_factory=dict)  # by whether the peak is held, and exponent
    order: list[Lane] = field(default_factory=list)  # what was compared last, best first
    check: Lane | None = None  # the answer's own run
    chosen: Lane | None = None
    stage: str = "nothing was run"
    missing: str | None = None
    unbounded: str | None = None  # what was seen of a loss without a floor
    watch: Callable[[Lane], None] | None = None  # called with the leader after each comparison

    @property
    def spacing(self) -> float:
        """The ratio of neighbouring candidates."""
        return plan.SPACING**2 if self.fast else plan.SPACING

    def __post_init__(self) -> None:
        """What candidates run under: a constant lr, or the way up to the schedule's peak, shortened, and the peak."""
        schedule = self.rehearsal.schedule
        self.held = schedule
        if not schedule.constant:
            rise = schedule.shape().index(max(schedule.shape()))
            self.held = schedule.held(math.ceil(rise * self._length(plan.FIRST) / schedule.horizon))

    @property
    def horizon(self) -> int:
        """The updates of the run that an lr is looked for."""
        return self.rehearsal.schedule.horizon

    def run(self) -> None:
        """Search until done, or until steps, time or patience are used up; then `missing` says what was left out."""
        try:
            self._bracket()
            if self.good():
                self._compare()
                self._verify()
                self._look_for_a_floor()
        except Bottomless as seen:
            self.unbounded = str(seen)
        except Spent as spent:
            self.missing = f"{spent}, {self.stage}"

    def lane(self, k: float, whole: bool = False) -> Lane:
        """The lane at base * SPACING^k with its peak held, or under the whole schedule; the same for a constant lr."""
        schedule = self.rehearsal.schedule if whole else self.held
        key = (schedule is self.held, k)
        known = self.lanes.get(key)
        if known is None or (known.copies is None and not known.diverged):  # given back: to be run from the start anew
            self.lanes[key] = self.rehearsal.lane(self.base * plan.SPACING**k, schedule)
        return self.lanes[key]

    def _length(self, share: float) -> int:
        budget = self.rehearsal.budget
        return max(plan.PACE, min(round(share * (budget.used + budget.left)), self.horizon))

    def good(self) -> list[float]:
        """The exponents whose trials lowered the loss, in order."""
        return sorted({k for (_, k), lane in self.lanes.items() if lane.loss < self.rehearsal.start})

    @property
    def edge(self) -> tuple[float, float] | None:
        """The largest lr whose run lowered the loss, and the smallest beyond it whose run did not."""
        good = self.good()
        if not good:
            return None
        worse = [lane.lr for (_, k), lane in self.lanes.items() if k > good[-1]]
        return self.base * plan.SPACING ** good[-1], min(worse, default=math.inf)

    def _trial(self, k: float) -> bool:
        """Whether a larger lr may still do: a short run at this exponent lowers the loss, or leaves it where it was."""
        lane = self.lane(k)
        if not self.rehearsal.budget.used:  # a few steps tell the pace, by which the time allows so many more
            self.rehearsal.run(lane, min(plan.PACE, self.horizon), looks=1)
        self.rehearsal.run(lane, self._length(plan.TRIAL), looks=1)
        if lane.diverged:
            lane.free()
        return lane.loss <= self.rehearsal.start  # equal: too small a step to tell, as on a plateau

    def _bracket(self) -> None:
        """Find two exponents next to each other, the lower of which does not raise the loss and the upper does."""
        self.stage = "while the edge was being looked for"
        far = plan.DECADES / math.log10(plan.SPACING)
        k, up = 0, self._trial(0)
        tried, budget = [0], self.rehearsal.budget
        allowed = plan.TRIALS * (budget.used + budget.left)
        while budget.used < allowed and abs(k) < far:
            step = 2 if up else -2
            tried.append(k + step)
            if self._trial(k + step) != up:
                tried.append(k + step // 2)
                self._trial(k + step // 2)
                break
            k += step
            if up and self._past_it(k):
                break
        k = min(tried)
        while not self.good() and budget.used < allowed and abs(k) < far:
            k -= 2  # the loss stood still at first, because the step was too long: it came back to where it had been
            self._trial(k)

    def _past_it(self, k: int) -> bool:
        """Whether the loss has been getting worse for a factor of 64: what lies above is not worth looking at."""
        tried = {exponent: lane.loss for (_, exponent), lane in self.lanes.items()}
        losses = [tried[k - i] for i in (0, 2, 4, 6) if k - i in tried]
        return len(losses) == 4 and all(a > b for a, b in pairwise(losses))

    def _compare(self) -> None:
        """Run candidates below the edge for a while, then those around the best of them as long as steps allow."""
        self.stage = "before any candidates were compared"
        best = self._exponent(min(self.lanes.values(), key=lambda lane: lane.loss))
        top = min(self.good()[-1], best + round(math.log(plan.ABOVE, plan.SPACING)))
        stride, budget = 2 if self.fast else 1, self.rehearsal.budget
        number, share = (plan.FAST_CANDIDATES, plan.FAST_FIRST) if self.fast else (plan.CANDIDATES, plan.FIRST)
        self._run([top - stride * i for i in range(number)], self._length(share))
        best = self._exponent(self.order[0])
        around = [best + stride * step for step in (plan.FAST_FINALISTS if self.fast else plan.FINALISTS)]
        chosen = [k for k in around if k == best or not self._raises(k)]
        runs = len(chosen) + 2 - self.fast  # one more where they point to, and the answer's own
        whole = self.held is not self.rehearsal.schedule and runs * self.horizon <= budget.left
        begun = [
            lane for k in chosen if (lane := self.lanes.get((not whole, k))) is not None and lane.copies is not None
        ]
        done = [lane.step for lane in begun]  # steps that they go on from
        length = max([3, *done, min(self.horizon, (budget.left + sum(done)) // runs)])
        self._run(chosen, length, whole)
        if whole:
            self._climb(chosen, stride)
        fits = not whole or 2 * self.horizon <= budget.left
        if not self.fast and fits and (beyond := self._beyond()) is not None:
            self._run([*chosen, beyond], length, whole)

    def _climb(self, chosen: list[float], stride: int) -> None:
        """Go on upward under the whole schedule, whatever was seen with the lr held, while the highest is the best.

        One run is kept for the answer.
        """
        while self._exponent(self.order[0]) == max(chosen) and 2 * self.horizon <= self.rehearsal.budget.left:
            chosen.append(max(chosen) + stride)
            self._run(chosen, self.horizon, whole=True)

    @property
    def whole(self) -> bool:
        """Whether what was compared last ran under the whole of a schedule that moves the lr."""
        schedule = self.rehearsal.schedule
        return not schedule.constant and bool(self.order) and self.order[0].schedule is schedule

    @property
    def alike(self) -> list[Lane]:
        """The runs that may be compared with the answer's: where whole schedules were run, those alone."""
        return [lane for lane in self.everything if not self.whole or lane.schedule is self.rehearsal.schedule]

    def _beyond(self) -> float | None:
        """Where one more finalist tells most: past the best if it is the last one, else half way to the better side."""
        ranks = {self._exponent(lane): self.rank(lane) for lane in self.order}
        best = self._exponent(self.order[0])
        sides = {side: ranks.get(best + side) for side in (1, -1)}
        for side, rank in sides.items():
            if rank is None and not self._raises(best + side):
                return best + side
        known = {side: rank for side, rank in sides.items() if rank is not None}
        return best + min(known, key=lambda side: known[side]) / 2 if known else None

    def _run(self, exponents: Sequence[float], length: int, whole: bool = False) -> None:
        """Run candidates until they have taken so many steps, and order them."""
        chosen = [self.lane(k, whole) for k in exponents]
        for lane in [lane for lane in self.lanes.values() if lane not in chosen]:
            lane.free()
        for lane in chosen:
            self.rehearsal.run(lane, length, looks=plan.LOOKS)
        self.order = sorted(chosen, key=self.rank)
        self.stage = f"after {len(chosen)} candidates had been compared over {length} steps each"
        if self.watch is not None and not self.order[0].diverged:
            self.watch(self.order[0])

    def _exponent(self, lane: Lane) -> float:
        """A lane's exponent, whole or half."""
        return round(2 * math.log(lane.lr / self.base, plan.SPACING)) / 2

    def _raises(self, k: float) -> bool:
        """Whether a run at this exponent has raised the loss, or diverged."""
        ends = [lane.loss for (_, exponent), lane in self.lanes.items() if exponent == k]
        return bool(ends) and not ends[-1] < self.rehearsal.start

    def _verify(self) -> None:
        """Run the answer from the start, as long as the finalists; if it diverges, the next lower finalist is it."""
        self.stage = "before the chosen lr was verified"
        lr, budget = self.middle(), self.rehearsal.budget
        if lr is None:
            return
        length = min(self.horizon, budget.left)  # as long as the finalists, and what dividing has left over
        if length >= min(plan.SHORTEST, self.horizon):
            schedule = self.rehearsal.schedule
            as_it_is = schedule.constant or length == self.horizon
            check = self.rehearsal.lane(lr, schedule if as_it_is else schedule.squeezed(length))
            self.check = check
            self.rehearsal.run(check, length, looks=plan.LOOKS)
            if check.loss < self.rehearsal.start:
                self.chosen = self.order[0] if self.whole and self._worse(check) else check
                return
        held = [lane for lane in self.order if lane.loss < self.rehearsal.start]
        self.chosen = max((lane for lane in held if lane.lr < lr), key=lambda lane: lane.lr, default=held[0])

    def _worse(self, check: Lane) -> bool:
        """Whether the answer's own run ended above the best finalist, under the same schedule, by more than noise."""
        best = self.rank(self.order[0])
        return self.rank(check) - best > plan.FLAT * (self.level(self.rehearsal.start) - best)

    def _look_for_a_floor(self) -> None:
        """Say that the loss is unbounded where the lowest run and the answer's are far below 0 and fall ever faster."""
        size = plan.FAR * max(abs(self.rehearsal.start), self.rehearsal.fall)
        lanes = [lane for lane in (self.winner, self.chosen) if lane is not None]
        if lanes and all(lane.losses[-1] < -size and _ever_faster(lane.tail()) for lane in lanes):
            self.unbounded = unbounded(lanes[0].lr, self.rehearsal.start, lanes[0].losses[-1], lanes[0].step)

    def middle(self) -> float | None:
        """The lr that `_mean` gives, but none above the largest that was run and lowered the loss.

        A falling lr's peak would else be a bet on an lr that nothing has borne: on the development tasks it hardly ever
        is (5 of 42), and holding it back costs .005 of the mean there. None where no finalist lowered the loss.
        """
        found, edge = self._mean(), self.edge
        return found if found is None or edge is None else min(found, edge[0])

    @property
    def capped(self) -> bool:
        """Whether the answer is the largest lr that was run and lowered the loss, and would else lie above it."""
        found, edge = self._mean(), self.edge
        return found is not None and edge is not None and found > edge[0]

    def _mean(self) -> float | None:
        """A margin below the mean of the log lrs of what was compared last, weighted by how near each came to the best.

        Lifted for a schedule that falls. None where none of them lowered the loss.
        """
        held = [lane for lane in self.order if lane.loss < self.rehearsal.start]
        if not held:
            return None
        levels = [self.rank(lane) for lane in held]
        best = min(levels)
        scale = plan.FLAT * (self.level(self.rehearsal.start) - best)
        weights = [math.exp((best - level) / scale) for level in levels]
        total = math.fsum(w * math.log(lane.lr) for w, lane in zip(weights, held, strict=True))
        return math.exp(total / math.fsum(weights)) / plan.MARGIN * self.lift

    @property
    def lift(self) -> float:
        """How far a peak may lie above the lr that is best held; 1 for a constant lr, and after whole schedules."""
        schedule = self.rehearsal.schedule
        if schedule.constant or not self.order or self.whole:
            return 1.0
        full = plan.LIFT_ADAPTIVE if adapts(self.rehearsal.optimizer) else plan.LIFT
        return math.pow(full, min(1.0, 2 * (1 - schedule.mean)))

    @property
    def everything(self) -> list[Lane]:
        """Every lane that was run, by lr, the longest of an lr last."""
        lanes = [*self.lanes.values(), *([] if self.check is None else [self.check])]
        return sorted((lane for lane in lanes if lane.step), key=lambda lane: (lane.lr, lane.step))

    @property
    def winner(self) -> Lane | None:
        """Of the runs alike the one that ended lowest, below the start; None if none did."""
        held = [lane for lane in self.alike if lane.loss < self.rehearsal.start]
        return min(held, key=lambda lane: lane.loss, default=None)

    def level(self, loss: float) -> float:
        """The loss on the scale on which candidates are compared: its logarithm, as long as losses are positive."""
        positive = self.rehearsal.start > 0 and all(v > 0 for lane in self.everything for v in lane.losses)
        if not math.isfinite(loss):
            return math.inf
        return math.log(loss) if positive else loss

    def rank(self, lane: Lane) -> float:
        """The mean level over a run's last quarter; infinite for one that ended above its start."""
        levels = [self.level(v) for v in lane.tail(0.75)]
        return math.fsum(levels) / len(levels) if levels and lane.loss < self.rehearsal.start else math.inf


def _ever_faster(losses: Sequence[float]) -> bool:
    """Whether a loss falls more from look to look, each time by a factor, as it does where it has no floor."""
    falls = [a - b for a, b in pairwise(losses)]
    return len(falls) > 2 and all(after > plan.FASTER * before > 0 for before, after in pairwise(falls))
