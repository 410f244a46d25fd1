"""`StabilityLR`: a learning rate that stays on the safe side of the edge, as a torch scheduler."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.training.monitor import Monitor

FREE = 20  # updates in which lr follows the limit up as well: sharpness and second moments are not yet settled there
RISE = 1.1
START = 1.0
DECAY = 0.4
JUMPS = ("loss-jump", "gradient-jump", "non-finite")
STEADY, FALLING = 0.1, 0.3  # falls of log limit between measurements that lengthen and shorten their distance


class StabilityLR(LRScheduler):
    """Hold the stability ratio at or below `target`: lr = min(what is asked for, target * the largest stable lr).

    Used like any torch scheduler: step() once after each update; state_dict, get_last_lr. It measures at construction,
    before the first update, then every few updates: the distance doubles, up to `every`, while the limit changes by
    less than 5%, and halves when it changes by more than 20%. These measurements are the monitor's, on its probe and
    in its records, but not bound by its budget. lr falls at once and rises by at most `growth` an update. All
    groups are scaled by one factor, so that their ratios stay.

    What is asked for: `schedule`, a torch scheduler on the same optimizer, which this one then steps, so that a user's
    schedule is capped; or max_lr (a number, or one for each group), by default the lr that the optimizer has now.
    max_lr=math.inf lets lr follow the limit. Warm-up falls out of it: where the start is sharp, the lr begins low.

    Limits of the idea: following the edge greedily keeps the loss sharp and loses in the long run against a well tuned
    constant or decaying lr (Roulet et al. 2024, CDAT, arXiv 2407.06183), so pair it with a schedule that decays; the
    probe's limit is that of the full, noiseless loss, and small batches become unstable earlier, which `target` below 1
    allows for; for an adaptive method it is the limit at its present second moments. That a high lr is safe only once
    the sharpness has fallen is why warm-up works (Kalra and Barkeshli 2024, arXiv 2406.09405).

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
        target: float = 0.8,
        max_lr: float | Sequence[float] | None = None,
        *,
        schedule: LRScheduler | None = None,
        total_steps: int | None = None,
        every: int = 20,
        growth: float = 1.05,
    ) -> None:
        if not 0 < target < math.inf:
            raise InvalidValue(f"StabilityLR: target={target!r} must be positive; 1 is the edge of stability")
        if every < 1 or not growth > 1:
            raise InvalidValue(f"StabilityLR: every={every!r} must be at least 1 and growth={growth!r} above 1")
        if schedule is not None and max_lr is not None:
            raise InvalidValue("StabilityLR: give schedule or max_lr; a schedule says itself how high lr may go")
        inner = getattr(optimizer, "optimizer", None)
        plain = inner if isinstance(inner, torch.optim.Optimizer) else optimizer
        if monitor.optimizer is not plain or (schedule is not None and schedule.optimizer is not plain):
            raise InvalidValue("StabilityLR: the monitor and the schedule must be those of this very optimizer")
        self.monitor, self.schedule = monitor, schedule
        self.target, self.every, self.growth = float(target), every, float(growth)
        groups = plain.param_groups
        given = [float(g["lr"]) for g in groups] if max_lr is None else _each(max_lr, len(groups))
        self.max_lrs = given
        self.total_steps = total_steps
        self._shape = _shape([float(g["lr"]) for g in groups])
        self._asked = given
        self._limit = math.inf  # the largest stable lr of the first group that moves
        self._seen: object = None  # the measurement that the limit is from
        self._last: float | None = None  # the lr of that group, as set last
        self._distance, self._left = 1, 0
        self._told = len(monitor.alarms)
        super().__init__(plain)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the lr of each group for the next update, measuring first where that is due."""
        asked = self._next_asked()
        self._look()
        first = next((lr for lr in asked if lr > 0), 0.0)
        allowed = self._aim() * self._limit
        if first == 0:
            return list(asked)
        lr = min(first, allowed)
        if math.isinf(lr):
            raise InvalidValue("StabilityLR: nothing limits the lr here and max_lr is infinite; give a finite max_lr")
        if self._last:
            lr = min(lr, self._last * (self.growth if self.last_epoch > FREE else RISE))
        elif lr == allowed:
            lr *= START
        if self._alarmed():
            lr /= 2
        self._last = lr
        if math.isinf(first):
            return [lr * part for part in self._shape]
        return [value * (lr / first) for value in asked]

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
        self._left = 0

    def _next_asked(self) -> list[float]:
        """What would be set without a cap, stepping the user's schedule with its own lr in the groups."""
        if self.schedule is None:
            return self.max_lrs
        if not self._is_initial:
            for group, lr in zip(self.optimizer.param_groups, self._asked, strict=True):
                group["lr"] = lr
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
        self._left = self._distance

    def _alarmed(self) -> bool:
        """Whether the loss has jumped since the last call, other than by its data."""
        new = self.monitor.alarms[self._told :]
        self._told = len(self.monitor.alarms)
        return any(alarm.code in JUMPS and alarm.cause != "data" for alarm in new)

    def _aim(self) -> float:
        """The target now: over total_steps it falls to zero along half a cosine."""
        if self.total_steps is None:
            return self.target
        left = 1 - self.last_epoch / self.total_steps
        return self.target * min(max(left, 0.0) / DECAY, 1.0)


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
