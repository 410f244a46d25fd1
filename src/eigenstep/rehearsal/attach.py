"""A schedule given to the user's own optimizer: the torch scheduler to step once after each update."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from eigenstep.bridge.param_groups import put_lrs
from eigenstep.errors import InvalidValue
from eigenstep.rehearsal.read_schedule import attached_to, stand_in, stepped
from eigenstep.rehearsal.schedule import Schedule

_LRS = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")  # the names under which schedulers keep lrs in a group
_KEPT = ("base_lrs", "max_lrs", "_last_lr", "eta_min")  # and on themselves
_ALIKE = 1e-6  # relative; rounding between a scheduler's own lrs and the shape that was rehearsed


def attach(what: str, optimizer: torch.optim.Optimizer, schedule: Schedule, peak: float) -> LRScheduler:
    """Set the lrs so that the schedule's peak is `peak`, and return the torch scheduler that takes it from there.

    A factory's own scheduler, or the one attached, is scaled where that gives the rehearsed lrs; a name, a function, a
    factory's shape that cannot be scaled, and the shape of a scheduler that is attached to another optimizer become a
    LambdaLR. Raises InvalidValue for what neither way can give.
    """
    attached = attached_to(what, optimizer)
    if attached is not None:
        if schedule.source is not attached and type(attached).__name__ != schedule.name:
            raise InvalidValue(
                f"{what}: {type(attached).__name__} is attached to this optimizer, and {schedule.name} was rehearsed; "
                "apply the answer to an optimizer without a scheduler"
            )
        return _scaled_in_place(what, optimizer, attached, schedule, peak)
    factory = schedule.source if schedule.name != "your function" else None
    if factory is not None and not isinstance(factory, LRScheduler):  # one that is attached belongs to its optimizer
        twin = stand_in(optimizer)
        scheduler = _made(twin, schedule)
        if _scale(twin, scheduler, schedule, peak):
            scheduler = _made(optimizer, schedule)
            _scale(optimizer, scheduler, schedule, peak)
            return scheduler
    if schedule.momenta:
        raise InvalidValue(
            f"{what}: {schedule.name} moves the momentum too, and cannot be scaled or made anew here; build it "
            f"with its peak at {peak:.4g}"
        )
    return _by_table(optimizer, schedule, peak)


def _made(optimizer: torch.optim.Optimizer, schedule: Schedule) -> LRScheduler:
    put_lrs(optimizer, [float(group["lr"]) or 1.0 for group in optimizer.param_groups])
    return schedule.source(optimizer)  # type: ignore[no-any-return]  # read_schedule has seen what it returns


def _by_table(optimizer: torch.optim.Optimizer, schedule: Schedule, peak: float) -> LRScheduler:
    """A LambdaLR whose base lrs are each group's peak."""
    tops = [max(each[i] for each in schedule.factors) for i in range(len(optimizer.param_groups))]
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)
    put_lrs(optimizer, [peak * top for top in tops])
    shapes = [_factor([each[i] / (top or 1.0) for each in schedule.factors]) for i, top in enumerate(tops)]
    return LambdaLR(optimizer, shapes)


def _factor(shape: list[float]) -> Callable[[int], float]:
    return lambda t: shape[min(t, len(shape) - 1)]


def _scaled_in_place(
    what: str, optimizer: torch.optim.Optimizer, attached: LRScheduler, schedule: Schedule, peak: float
) -> LRScheduler:
    twin = stand_in(optimizer)
    if not _scale(twin, copy.deepcopy(attached, {id(optimizer): twin}), schedule, peak):
        raise InvalidValue(
            f"{what}: the attached {type(attached).__name__} cannot be scaled as it stands; build it anew on an "
            f"optimizer whose lr makes its peak {peak:.4g}"
        )
    _scale(optimizer, attached, schedule, peak)
    return attached


def _scale(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, schedule: Schedule, peak: float) -> bool:
    """Scale every lr that a scheduler keeps; return whether its lrs are then those of the schedule with this peak."""
    times = peak * max(map(max, schedule.factors)) / max(map(max, _lrs(optimizer, scheduler, schedule)))
    for group in optimizer.param_groups:
        for name in _LRS:
            if name in group:
                group[name] = _times(group[name], times)
    for part in _parts(scheduler):
        for name in _KEPT:
            if name in vars(part):
                setattr(part, name, _times(getattr(part, name), times))
    return all(
        abs(lr - peak * factor) <= _ALIKE * peak
        for each, factors in zip(_lrs(optimizer, scheduler, schedule), schedule.factors, strict=True)
        for lr, factor in zip(each, factors, strict=True)
    )


def _lrs(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, schedule: Schedule) -> list[tuple[float, ...]]:
    """The lrs that a scheduler will give, tried on a copy of it."""
    twin = stand_in(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return stepped(twin, copy.deepcopy(scheduler, {id(optimizer): twin}), schedule.horizon)[0]


def _parts(scheduler: LRScheduler) -> list[LRScheduler]:
    return [scheduler, *(p for part in vars(scheduler).get("_schedulers", ()) for p in _parts(part))]


def _times(value: Any, by: float) -> Any:
    """A number, tensor or list of them, scaled."""
    if isinstance(value, (list, tuple)):
        return type(value)(_times(each, by) for each in value)
    return value.mul_(by) if isinstance(value, Tensor) else value * by
