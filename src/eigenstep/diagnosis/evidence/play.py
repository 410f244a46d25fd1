"""A short play on copies: the optimizer's next updates, by the user's own loop, schedule and mini-batches."""

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from eigenstep.curvature import measure
from eigenstep.curvature.lanczos import Aim
from eigenstep.diagnosis.allowance import Allowance
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.rehearsal import Bottomless, Lane, Rehearsal, Spent
from eigenstep.stability.joint_limit import edge_of

LOOKS = (0, 5, 20, 50)  # updates after which the ratio is looked at, and again wherever a longer play stops
PLAYED = 50  # updates that are played in any case
# Further updates while it is in doubt whether this trains: of the runs of the development tasks that end above their
# start, a tenth still look well after 100 updates, and of those that train, 6 in 275 look bad after 50 and none after
# 400 (benchmarks/advice/grid.json).
LONGER = (100, 200, 400)
SETTLED = 20  # updates after which second moments tell more than at the start
_EARLY = (1, 2, 5, 20, PLAYED)
ABOVE = 1.01  # of the start; what a run that fails ends above, as in benchmarks/advice
STANDS, ROSE = 0.97, 1.005  # of the start: a run that rose past the second and stands above the first learns nothing,
NOTHING = 0.9  # where it is also at this part, or more, of what the model without parameters loses
TRAINED = 0.5  # of that; a start below it is trained already, and
NOISE_LIFTS = 2.0  # the noise of mini-batches alone may hold a trained loss some way above where it stood
RISES = 1.02  # of the start: less is the noise of mini-batches
_DOUBT = 0.5  # of the largest stable lr: sharpness usually rises, and may take what is left
_TOL, _PRODUCTS, _AGAIN = 0.05, 30, 8  # of a ratio on the way: products at most, and begun from the one before
_UPDATES_OF, _LOOKS_OF = 0.4, 0.5  # of the time allowed, by which updates, and looks, must be over
_AT_PEAK = 20  # updates at the schedule's peak that a play must hold to say something of it
TRAINS = 0.9  # of the start: below it a play has trained


@dataclass(frozen=True)
class Play:
    """The losses and ratios of the optimizer's next updates on copies, lr and schedule as they are.

    - points: updates, 0 first.
    - losses: by point; the loss over the objective's data, or some of its batches; it ends where that is not finite.
    - ratios: by updates; the stability ratio then, quick, at the lr of then.
    - limits: by updates; the largest stable lr then, of the first group that moves.
    - lr: the peak that is played towards, of that group.
    - schedule: in words.
    - nothing: a loss; that of the model with all measured parameters at zero, None where it is no floor.
    - peaked: whether the schedule's peak was reached.
    - ended: why it is shorter than it would be; None if it is not.
    """

    points: tuple[int, ...]
    losses: tuple[float, ...]
    ratios: Mapping[int, float] = field(default_factory=dict)
    limits: Mapping[int, float] = field(default_factory=dict)
    lr: float = 0.0
    schedule: str = "a constant lr"
    nothing: float | None = None
    peaked: bool = True
    ended: str | None = None

    @property
    def updates(self) -> int:
        """How many were taken."""
        return self.points[-1]

    @property
    def high(self) -> float:
        """The highest loss on the way."""
        return max((v if math.isfinite(v) else math.inf) for v in self.losses)

    @property
    def late(self) -> float:
        """The median loss of the later half: where it stands; infinite once diverged."""
        if not math.isfinite(self.losses[-1]):
            return math.inf
        return statistics.median(v for p, v in zip(self.points, self.losses, strict=True) if 2 * p >= self.updates)

    @property
    def level(self) -> float:
        """Where it stands over where it began."""
        start = self.losses[0]
        return self.late / start if start > 0 else math.nan

    @property
    def rises(self) -> bool:
        """Whether the loss was above its start on the way, by more than noise."""
        return not self.high <= self.losses[0] + (RISES - 1) * abs(self.losses[0])

    @property
    def trains(self) -> bool:
        """Whether the loss stands clearly below its start."""
        return self.updates > 0 and self.late < self.losses[0] - (1 - TRAINS) * abs(self.losses[0])

    @property
    def holds(self) -> bool:
        """Whether this lr may be recommended instead: it trains, or holds a trained loss."""
        trained = self.nothing is not None and self.losses[0] < TRAINED * self.nothing
        return self.trains or (trained and self.updates > 0 and self.late <= self.losses[0])

    @property
    def fails(self) -> bool:
        """Whether the loss diverges, ends above its start, or has learnt nothing after it rose."""
        if not self.updates:
            return False
        if not math.isfinite(self.late):
            return True
        start, nothing = self.losses[0], self.losses[0] if self.nothing is None else self.nothing
        if not start > 0:  # no share of it means anything
            return False
        above = NOISE_LIFTS if start < TRAINED * nothing else ABOVE
        stands = self.high > ROSE * start and self.level > STANDS and self.late >= NOTHING * nothing
        return self.level > above or stands

    @property
    def settled(self) -> tuple[int, float, float] | None:
        """Updates, ratio and largest stable lr at the last look; None where there was none but at the start."""
        last = max(self.ratios, default=0)
        return (last, self.ratios[last], self.limits[last]) if last else None


class Playing:
    """A play under way."""

    def __init__(self, rehearsal: Rehearsal, allowance: Allowance, lr: float, *, seed: int) -> None:
        self.rehearsal, self.allowance, self.lr, self.seed = rehearsal, allowance, lr, seed
        self.ratios: dict[int, float] = {}
        self.limits: dict[int, float] = {}
        self.ended: str | None = None
        self.products = 0
        self._vector: Tensor | None = None
        self._seconds = 0.0  # of the updates
        factors = rehearsal.schedule.shape()
        self.peak_at = next(t for t, factor in enumerate(factors) if factor > 1 - 1e-6)

    def run(self, nothing: float, looks: bool = True, most: int = LONGER[-1]) -> Play:
        """Play on until it is clear whether this trains, or the time or the horizon is over; inside its session.

        nothing: see Play. looks: whether ratios are measured on the way. most: updates, where the peak comes in time.
        """
        lane, horizon = self.rehearsal.lane(self.lr), self.rehearsal.schedule.horizon
        if looks:
            self._look(lane)
        after = self.peak_at + _AT_PEAK
        longest = min(max(most, after), horizon)
        for stop in sorted({min(stop, longest) for stop in (*_EARLY, *LONGER, after)}):
            if stop > PLAYED and not self._doubtful(self._play(lane, nothing)):
                break
            if lane.diverged or lane.step >= horizon or not self._goes(lane, stop):
                break
            if looks and stop >= LOOKS[1] and (stop in LOOKS or stop > PLAYED):
                self._look(lane)
        found = self._play(lane, nothing)
        lane.free()
        return found

    def _play(self, lane: Lane, nothing: float) -> Play:
        shape = self.rehearsal.schedule
        return Play(
            tuple(lane.points),
            tuple(lane.losses),
            dict(self.ratios),
            dict(self.limits),
            self.lr,
            shape.words,
            nothing if math.isfinite(nothing) and nothing > 0 else None,
            lane.step > self.peak_at,
            self.ended,
        )

    def _doubtful(self, play: Play) -> bool:
        """Whether more updates may change what is said: it looks bad, the limit was near, or the peak has not come."""
        near = max((ratio for after, ratio in play.ratios.items() if after), default=1.0)
        return play.fails or play.updates < self.peak_at + _AT_PEAK or near > _DOUBT

    def _goes(self, lane: Lane, stop: int) -> bool:
        """Play on up to an update; whether it got there."""
        each = self._seconds / lane.step if lane.step else 0.0
        if lane.step and not self.allowance.fits(each * (stop - lane.step), of=_UPDATES_OF):
            self.ended = f"seconds={self.allowance.seconds:g} left no time for more"
            return False
        began = time.perf_counter()
        try:
            self.rehearsal.run(lane, stop)
        except (Bottomless, Spent) as error:
            self.ended = str(error)
        self._seconds += time.perf_counter() - began
        return self.ended is None

    def _time_to_look(self, lane: Lane) -> bool:
        """Whether a look fits; at the start, whether a later one fits as well, which says more."""
        products = Aim(quick=True).expected if self._vector is None else _AGAIN
        return self.allowance.fits(self.allowance.product * (products + _AGAIN * (not lane.step)), of=_LOOKS_OF)

    def _look(self, lane: Lane) -> None:
        """The ratio where the copies are now; none where there is no linear limit, or no time left."""
        if lane.copies is None or lane.diverged or not self._time_to_look(lane):
            return
        model, optimizer = lane.copies
        self.rehearsal.schedule.put(optimizer, self.lr, lane.step)
        part = self.rehearsal.objective.on(model)
        try:
            with part.session():
                edge = edge_of(part, optimizer)
                start = None if self._vector is None else self._vector[None]
                found = measure(
                    edge.operator,
                    quick=True,
                    tol=_TOL,
                    start=start,
                    vectors=True,
                    seed=self.seed,
                    max_products=_PRODUCTS,
                )
        except (Unsupported, InvalidValue):  # no limit, or nothing moves
            return
        self.products += self.allowance.learn(found)
        if found.vectors is not None:
            self._vector = found.vectors[0]
        ratio = max(float(found.values[0]), 0.0)
        if edge.moving:
            self.ratios[lane.step] = ratio
            self.limits[lane.step] = edge.lr / ratio if ratio else math.inf
