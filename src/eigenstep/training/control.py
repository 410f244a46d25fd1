"""`StabilityLR`: a learning rate that stays on the safe side of the edge, as a torch scheduler."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.training.monitor import Monitor

RISE = 1.1  # how fast the cap may rise in the first, free updates, where nothing is settled
DECAY = 0.4  # the last part of total_steps, over which lr falls to zero
# Target, growth and free updates, found on the advice benchmark's development tasks: momentum carries a mini-batch's
# noise on for 1 / (1 - momentum) updates, and needs more room below the edge; adaptive limits rise as moments settle.
PLAIN, MOMENTUM, ADAPTIVE = (0.8, 1.002, 20), (0.4, 1.001, 20), (0.4, 1.005, 100)
JUMPS = ("loss-jump", "gradient-jump", "non-finite")
STEADY, FALLING = 0.1, 0.3  # falls of log limit between measurements that lengthen and shorten their distance


class StabilityLR(LRScheduler):
    """Hold the stability ratio at or below `target`: lr = min(what is asked for, target * the largest stable lr).

    Used like any torch scheduler: step() once after each update; state_dict, get_last_lr. It measures at construction,
    before the first update, then every few updates: the distance doubles, up to `every`, while the limit holds, and
    halves when it falls. These measurements are the monitor's, on its probe and in its records, but not bound by its
    budget. The cap falls at once, and halves when the loss jumps otherwise than by its data; it rises by at most
    `growth` an update, by a tenth in the first twenty (adaptive methods: hundred). All groups are scaled by one factor,
    so that their ratios stay.

    What is asked for: `schedule`, a torch scheduler on the same optimizer, which this one then steps, so that a user's
    schedule is capped; or max_lr (a number, or one for each group), by default the lr that the optimizer has now.
    max_lr=math.inf lets lr follow the limit. Warm-up falls out of it: where the start is sharp, the lr begins low.
    total_steps: over the last 40% of them the cap falls to zero, which a run of known length gains by. target, growth:
    by default .8 and 1.002 for plain gradient descent, .4 and 1.001 with momentum, .4 and 1.005 for adaptive methods.

    Limits of the idea: following the edge greedily loses in the long run against a well tuned lr (Roulet et al. 2024,
    CDAT, arXiv 2407.06183): a high lr finds flat places, there the limit is high again, and the noise of mini-batches
    keeps the loss up; hence the slow growth and the decay. The probe's limit is that of the full, noiseless loss; small
    batches become unstable earlier, hence a target below 1. For an adaptive method it is the limit at its present
    second moments. That a high lr is safe only once the sharpness has fallen is why warm-up works (Kalra and Barkeshli
    2024, arXiv 2406.09405).

    Raises InvalidValue for numbers out of range, Unsupported for an optimizer that has no linear limit.

    >>> import torch
    >>> from eigenstep.advice import Objective
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
        growth: float | None = None,
    ) -> None:
        inner = getattr(optimizer, "optimizer", None)
        plain = inner if isinstance(inner, torch.optim.Optimizer) else optimizer
        usual_target, usual_growth, self._free = _usual(plain)
        target, growth = target or usual_target, growth or usual_growth
        if not 0 < target < math.inf:
            raise InvalidValue(f"StabilityLR: target={target!r} must be positive; 1 is the edge of stability")
        if every < 1 or not growth > 1 or (total_steps is not None and total_steps < 1):
            raise InvalidValue(
                f"StabilityLR: every={every!r} and total_steps={total_steps!r} must be at least 1, growth={growth!r} "
                "above 1"
            )
        if schedule is not None and max_lr is not None:
            raise InvalidValue("StabilityLR: give schedule or max_lr; a schedule says itself how high lr may go")
        if monitor.optimizer is not plain or (schedule is not None and schedule.optimizer is not plain):
            raise InvalidValue("StabilityLR: the monitor and the schedule must be those of this very optimizer")
        groups = plain.param_groups
        given = [float(g["lr"]) for g in groups] if max_lr is None else _each(max_lr, len(groups))
        if schedule is None and not any(given):
            raise InvalidValue("StabilityLR: lr is 0, so that nothing is asked for; give max_lr, or schedule")
        self.monitor, self.schedule = monitor, schedule
        self.target, self.every, self.growth, self.total_steps = float(target), every, float(growth), total_steps
        self.max_lrs = given
        self._asked = given
        self._shape = _shape([float(g["lr"]) for g in groups])
        self._limit = math.inf  # the largest stable lr of the first group that moves
        self._seen: object = None  # the measurement that the limit is from
        self._cap = math.inf
        self._distance, self._left = 1, 0
        self._told = len(monitor.alarms)
        super().__init__(plain)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the lr of each group for the next update, measuring first where that is due."""
        asked = self._next_asked()
        self._look()
        rise = self.growth if self.last_epoch > self._free else max(self.growth, RISE)
        cap = min(self.target * self._limit, self._cap * rise)
        self._cap = cap / 2 if self._alarmed() else cap
        allowed = self._cap * self._left_over()
        first = next((lr for lr in asked if lr > 0), 0.0)
        if math.isinf(min(first, allowed)):
            raise InvalidValue("StabilityLR: nothing limits the lr here and max_lr is infinite; give a finite max_lr")
        if math.isinf(first):
            return [allowed * part for part in self._shape]
        return [lr * min(1.0, allowed / first) if first else lr for lr in asked]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, and the schedule's state; the monitor has its own."""
        own = {k: v for k, v in vars(self).items() if k not in ("optimizer", "monitor", "schedule", "_seen")}
        return own | {"schedule": None if self.schedule is None else self.schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the next step measures anew."""
        state = dict(state_dict)
        inner = state.pop("schedule")
        if self.schedule is not None and inner is not None:
            self.schedule.load_state_dict(inner)
        vars(self).update(state)
        self._left, self._told = 0, len(self.monitor.alarms)

    def _next_asked(self) -> list[float]:
        """What would be set without a cap; a schedule is stepped with its own lr in the groups, as it left them."""
        if not math.isinf(max(self._asked)):
            for group, lr in zip(self.optimizer.param_groups, self._asked, strict=True):
                _set(group, lr)
        if self.schedule is not None:
            if not self._is_initial:
                self.schedule.step()
            self._asked = [float(group["lr"]) for group in self.optimizer.param_groups]
        return self._asked

    def _look(self) -> None:
        """Take the newest measurement, making one if it is due, and set the distance to the next by how it changed."""
        self._left -= 1
        newest = self.monitor.probe.last
        if self._left < 0:
            reading = self.monitor.measure(confirm=self._seen is None)
            if reading.limit is None:
                if self.monitor.probe.refused:
                    raise Unsupported(f"StabilityLR: {self.monitor.probe.refused}")
                if self._seen is None:
                    raise InvalidValue(f"StabilityLR: {reading.reason}")
            newest = reading.limit
        if newest is None or newest is self._seen:
            self._left = max(self._left, 0)
            return
        old, self._limit, self._seen = self._limit, newest.max_stable_lr, newest
        known = 0 < old < math.inf and 0 < self._limit < math.inf
        fell = math.log(old / self._limit) if known else FALLING
        if fell < STEADY:
            self._distance = min(2 * self._distance, self.every)
        elif fell > FALLING:
            self._distance = max(self._distance // 2, 1)
        self._left = self._distance - 1

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


def _set(group: dict[str, Any], lr: float) -> None:
    """Set a group's lr, in place where it is a tensor."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def _usual(optimizer: torch.optim.Optimizer) -> tuple[float, float, int]:
    """The default target, growth and free updates for a method."""
    group = optimizer.param_groups[0]
    if "betas" in group or "alpha" in group or "lr_decay" in group:
        return ADAPTIVE
    return MOMENTUM if group.get("momentum") else PLAIN


def _each(max_lr: float | Sequence[float], groups: int) -> list[float]:
    """One max_lr a group, checked."""
    values = [float(v) for v in max_lr] if isinstance(max_lr, Sequence) else [float(max_lr)] * groups
    if len(values) != groups or not all(v > 0 for v in values) or len({math.isinf(v) for v in values}) > 1:
        raise InvalidValue(
            f"StabilityLR: max_lr={max_lr!r} must be positive, one number or {groups}, one for each group"
        )
    return values


def _shape(lrs: list[float]) -> list[float]:
    """The groups' lr relative to the first that moves; equal ones where none does."""
    first = next((lr for lr in lrs if lr > 0), 0.0)
    return [lr / first for lr in lrs] if first else [1.0] * len(lrs)
