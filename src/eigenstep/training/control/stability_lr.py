"""`StabilityLR`: a learning rate that stays on the safe side of the edge, as a torch scheduler."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from eigenstep.bridge.param_groups import adapts, first_moving, largest_momentum, lrs_of, put_lrs, relative
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.stability import trusted
from eigenstep.training.control.arguments import each_group, refuse_other_types
from eigenstep.training.control.trust import Trust
from eigenstep.training.monitor import Monitor
from eigenstep.training.probe import Reading

# Everything below was found on the advice benchmark's development tasks, three seeds each.
# Target, and the power of the loss's fall by which the cap may rise: momentum carries a mini-batch's noise on for
# 1 / (1 - momentum) updates, and needs more room below the edge; so do adaptive methods, whose limit moves with them.
PLAIN, MOMENTUM, ADAPTIVE = (0.9, 0.5), (0.4, 0.1), (0.4, 0.1)
CEILING = 2.0  # times a target that was not given: how far above it a fallen limit may leave the ratio
WARM = 10.0  # the power during warm-up
RISE, FALL = 1.2, 0.99  # the cap's fastest rise in one update; its fall between target and ceiling
DECAY = 0.4  # the last part of total_steps, over which lr falls to zero
GAINED = 1.25  # times that the probe's loss has fallen: standing above its first again halves the cap
JUMPS = ("loss-jump", "gradient-jump", "non-finite")
STEADY, FALLING = 0.1, 0.3  # falls of log limit between measurements that lengthen and shorten their distance


class StabilityLR(LRScheduler):
    """Leave an lr that trains as it is; hold one that does not at `target` times the largest stable lr, or below.

    lr = min(what is asked for, a cap). Used like any torch scheduler: step() once after each update; state_dict,
    get_last_lr. All groups are scaled by one factor: their ratios stay. The monitor's budget is lifted, so that a run
    depends on its seeds, not on the clock.

    What is asked for is tried before it is used: 50 updates on copies of model and optimizer, with the probe's batches
    in turn (give it some of the size that the run has). It is left alone, bit for bit, where their loss does not rise
    on the way, or rises by less than 20 times the run's first and then falls at least half as far as under the lr
    that would be used else. If not, .71 and .5 of it are tried, and it again after 20 updates, 40, and so on. A
    schedule that rises is tried ahead, at each doubling, and stops where a trial fails. The run is watched meanwhile:
    if the probe's loss stays a tenth above its first for 50 updates, or is 100 times that, nothing is trusted any
    more. A target that is given is never passed: then nothing is tried, and the limit leads from the start.

    Where nothing is trusted the limit leads the cap. It is measured at construction, then every few updates: the
    distance doubles, up to `every`, while the limit holds, and halves when it falls; the monitor records it. The cap
    begins at target * limit, or as far below as the loss stops being the quadratic that the limit is of (down to a
    32nd, see stability.quadratic_range): that is the warm-up. Until it has reached that target it may rise with the
    tenth power of the fall of the probe's loss (at most by a fifth an update), from then on with the power `follow`:
    where the loss does not fall, lr does not rise, however flat the place. Above the target, since the limit has
    fallen, it falls by 1% an update, and at once to `ceiling` * limit: a network at the edge flattens by itself, and an
    lr that runs from each sharp place never comes back. It halves when the loss jumps otherwise than by its data,
    and at each measurement that finds the probe's loss back above its first, from which it had fallen by a fifth.
    target, follow: by default .9 and .5 for plain gradient descent, .4 and .1 with momentum and for adaptive methods.
    ceiling: by default twice that target, and a target that is given itself, so that lr falls at once.

    What is asked for: `schedule`, a torch scheduler on the same optimizer, which this one then steps, so that a user's
    schedule is capped; or max_lr (a number, or one for each group), by default the lr that the optimizer has now.
    max_lr=math.inf lets lr follow the limit. total_steps: over the last 40% of them the cap falls to zero, which a run
    of known length gains by.

    An adaptive method's limit counts as no less than half its critical lr (critical_sharpness, measured beside it):
    where second moments are tiny, in dead units or at the start, a direction leaves its frozen-P edge long before the
    loss can feel it, and renews its second moment as it does. A method without a linear limit (Lion) has that alone.

    A trial is short, and sees the probe alone: an lr a few times too high may pass it, and then ends as without this
    (at the lowest lr that diverges, 3 of 10 development tasks). Give a target to have the limit lead from the start.

    Limits of the idea: following the edge greedily loses in the long run against a well tuned lr (Roulet et al. 2024,
    CDAT, arXiv 2407.06183): a high lr finds flat places, there the limit is high again, and the noise of mini-batches
    keeps the loss up; hence a rise that the loss has to pay for. The probe's limit is that of the full, noiseless loss;
    small batches become unstable earlier, hence a target below 1. That a high lr is safe only once the sharpness has
    fallen is why warm-up works (Kalra and Barkeshli 2024, arXiv 2406.09405).

    Raises InvalidValue for numbers out of range, Unsupported for an optimizer whose lr nothing can be said about.

    >>> import torch
    >>> from eigenstep.objective import Objective
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> loss = lambda model, x: 2 * (model(x) ** 2).mean()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    >>> monitor = Monitor(Objective(model, loss, torch.ones(1, 1)), optimizer)
    >>> scheduler = StabilityLR(optimizer, monitor, target=0.8)
    >>> [round(lr, 6) for lr in scheduler.get_last_lr()]
    [0.4]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        monitor: Monitor,
        target: float | None = None,
        max_lr: float | Sequence[float] | None = None,
        *,
        schedule: LRScheduler | None = None,
        total_steps: int | None = None,
        every: int = 20,
        follow: float | None = None,
        ceiling: float | None = None,
    ) -> None:
        refuse_other_types(monitor, schedule, target=target, follow=follow, ceiling=ceiling)
        inner = getattr(optimizer, "optimizer", None)
        plain = inner if isinstance(inner, torch.optim.Optimizer) else optimizer
        if monitor.optimizer is not plain or (schedule is not None and schedule.optimizer is not plain):
            raise InvalidValue("StabilityLR: the monitor and the schedule must be those of this very optimizer")
        usual_target, usual_follow = _usual(plain)
        leads = target is not None
        target = usual_target if target is None else target
        if ceiling is None:
            ceiling = target if leads else CEILING * target
        follow = usual_follow if follow is None else follow
        if not 0 < target <= ceiling < math.inf:
            raise InvalidValue(
                f"StabilityLR: target={target!r} must be positive and at most ceiling={ceiling!r}; 1 is the edge of "
                "stability"
            )
        for name, count in (("every", every), ("total_steps", total_steps)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise InvalidValue(f"StabilityLR: {name}={count!r} must be a whole number, at least 1")
        if not 0 <= follow < math.inf:
            raise InvalidValue(f"StabilityLR: follow={follow!r} must be finite and at least 0")
        if schedule is not None and max_lr is not None:
            raise InvalidValue("StabilityLR: give schedule or max_lr; a schedule says itself how high lr may go")
        given = lrs_of(plain) if max_lr is None else each_group(max_lr, len(plain.param_groups))
        if schedule is None and not any(given):
            raise InvalidValue("StabilityLR: lr is 0, so that nothing is asked for; give max_lr, or schedule")
        self.monitor, self.schedule = monitor, schedule
        self.target, self.ceiling, self.follow = float(target), float(ceiling), float(follow)
        self.every, self.total_steps = every, total_steps
        self.max_lrs = given
        self._asked = given
        self._shape = relative(lrs_of(plain))
        self._seen: Reading | None = None  # what the bound is from
        self._bound = math.nan  # the largest stable lr of the first group that moves
        self._cap = math.inf
        self._goal = math.inf  # the cap that ends the warm-up, as does a jump of the loss: the first target; then 0
        self._first = math.nan  # of the probe's losses since the limit leads
        self._lowest, self._rise = math.inf, 0.0  # of the same; what the log of the cap may still rise by
        self._relapsed = False  # whether the newest is back above the first
        self._distance, self._left = 1, 0
        self._told = len(monitor.alarms)
        followed = leads or (schedule is None and math.isinf(max(given)))
        self._trust = None if followed else Trust(monitor.probe, plain)
        self._trusted = False  # whether the last lr was, so that the limit did not lead
        monitor.probe.critical = monitor.probe.critical or adapts(plain)
        monitor.cadence.budget = 1.0
        super().__init__(plain)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the lr of each group for the next update, measuring first where that is due."""
        running = lrs_of(self.optimizer)
        asked = self._next_asked()
        allowed = self._cap_of(asked, running) * self._left_over()
        first = first_moving(asked)
        if math.isinf(min(first, allowed)):
            raise InvalidValue("StabilityLR: nothing limits the lr here and max_lr is infinite; give a finite max_lr")
        if math.isinf(first):
            return [allowed * part for part in self._shape]
        return [lr * min(1.0, allowed / first) if first else lr for lr in asked]

    def _cap_of(self, asked: list[float], running: list[float]) -> float:
        """The cap on the next update: what is asked for, as far as trust goes, else what the limit leads."""
        trust = self._trust
        if trust is None or not self._trusted:
            self._hold()
            running = [self._cap * part for part in self._shape]
        trusted_lr = None if trust is None else trust.allows(asked, running)
        if trusted_lr is None and self._trusted:
            self._seen, self._told = None, len(self.monitor.alarms)  # the limit leads, anew
            self._first, self._lowest, self._rise, self._left = math.nan, math.inf, 0.0, 0
            self._hold()
        self._trusted = trusted_lr is not None
        return self._cap if trusted_lr is None else trusted_lr

    def _hold(self) -> None:
        """Move the cap that the limit leads."""
        begins = self._seen is None
        bound = self._look()
        top = self.target * bound
        if begins:
            self._cap = trusted(self.monitor.objective, self.optimizer, top) if math.isfinite(top) else math.inf
            self._goal = top
        elif self._cap < top:
            rise = min(self._rise, math.log(RISE), math.log(top / self._cap))
            self._cap, self._rise = self._cap * math.exp(rise), self._rise - rise
        else:
            self._cap = max(top, min(self._cap * FALL, self.ceiling * bound))
        jumped = self._alarmed() or self._relapsed
        self._relapsed = False
        self._cap /= 2 if jumped else 1
        if self._goal and (jumped or self._cap >= min(top, self._goal) * (1 - 1e-9)):
            self._goal, self._rise = 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, and the schedule's state; the monitor has its own."""
        parts = {"schedule": self.schedule, "_trust": self._trust}
        own = {k: v for k, v in vars(self).items() if k not in ("optimizer", "monitor", "_seen", *parts)}
        return own | {name: None if part is None else part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the next step measures anew."""
        state = dict(state_dict)
        for part, inner in ((self.schedule, state.pop("schedule")), (self._trust, state.pop("_trust", None))):
            if part is not None and inner is not None:
                part.load_state_dict(inner)
        vars(self).update(state)
        self._left, self._told = 0, len(self.monitor.alarms)

    def _next_asked(self) -> list[float]:
        """What would be set without a cap; a schedule is stepped with its own lr in the groups, as it left them."""
        if not math.isinf(max(self._asked)):
            put_lrs(self.optimizer, self._asked)
        if self.schedule is not None:
            if not self._is_initial:
                self.schedule.step()
            self._asked = lrs_of(self.optimizer)
        return self._asked

    def _look(self) -> float:
        """Return the largest stable lr by the newest measurement, making one if it is due.

        By how it changed the distance to the next is set, and by the probe's loss what the cap may rise by.
        """
        self._left -= 1
        if self._left < 0:
            reading = self.monitor.measure(confirm=True if self._seen is None else None)
            if math.isnan(self._bound) and _bound(reading) is None and self._is_initial:
                raise (Unsupported if self.monitor.probe.refused else InvalidValue)(f"StabilityLR: {reading.reason}")
        newest = self.monitor.probe.newest
        if newest is None or newest is self._seen:
            self._left = max(self._left, 0)
            return self._bound
        old, self._bound, self._seen = self._bound, _bound(newest) or self._bound, newest
        self._descend(newest.probe_loss)
        known = 0 < old < math.inf and 0 < self._bound < math.inf
        fell = math.log(old / self._bound) if known else FALLING
        if fell < STEADY:
            self._distance = min(2 * self._distance, self.every)
        elif fell > FALLING:
            self._distance = max(self._distance // 2, 1)
        self._left = self._distance - 1
        return self._bound

    def _descend(self, loss: float) -> None:
        """Let the cap rise by a power of the fall of the probe's loss below its lowest so far."""
        self._first = loss if math.isnan(self._first) else self._first
        if not loss < self._lowest:
            self._relapsed = GAINED * self._lowest < self._first <= loss
            return
        if math.isfinite(self._lowest):
            fall = (self._lowest - loss) / max(abs(loss), 1e-30)  # a loss that is not positive falls, too
            self._rise += (WARM if self._goal else self.follow) * math.log1p(fall)
        self._lowest = loss

    def _alarmed(self) -> bool:
        """Whether the loss has jumped since the last call, other than by its data."""
        new = self.monitor.alarms[self._told :]
        self._told = len(self.monitor.alarms)
        return any(alarm.code in JUMPS and alarm.cause != "data" for alarm in new)

    def _left_over(self) -> float:
        """What total_steps leaves of the cap: all of it, then in the last part a straight line to zero."""
        if self.total_steps is None:
            return 1.0
        return min(max(1 - self.last_epoch / self.total_steps, 0.0) / DECAY, 1.0)


def _usual(optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """The default target and power for a method."""
    return ADAPTIVE if adapts(optimizer) else MOMENTUM if largest_momentum(optimizer) else PLAIN


def _bound(reading: Reading) -> float | None:
    """The largest stable lr by a reading: its limit, or half its critical lr where that is larger; None without."""
    limit = reading.limit.max_stable_lr if reading.limit is not None else 0.0
    critical = reading.critical.lr if reading.critical is not None else None
    if critical is None or (reading.limit is not None and math.isinf(critical)):
        return limit or None
    return max(limit, critical / 2) or None
