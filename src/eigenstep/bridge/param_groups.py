"""What stands in an optimizer's param groups: each lr, the first that moves, the other settings; read and written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SETTINGS = ("momentum", "nesterov", "dampening", "betas", "alpha", "weight_decay", "eps", "delta", "amsgrad")
Groups = Sequence[dict[str, Any]]


def params_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every parameter that the optimizer holds, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def lrs_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each group's lr.

    >>> w, v = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    >>> lrs_of(torch.optim.SGD([{"params": [w], "lr": 0.0}, {"params": [v]}], lr=0.5))
    [0.0, 0.5]
    """
    return [float(group["lr"]) for group in optimizer.param_groups]


def first_moving(lrs: Iterable[float]) -> float:
    """The first lr that is not 0, which results are given for; 0 if none is."""
    return next((lr for lr in lrs if lr > 0), 0.0)


def lr_of(optimizer: torch.optim.Optimizer) -> float:
    """The lr of the first group that moves; 0 if none does."""
    return first_moving(lrs_of(optimizer))


def relative(lrs: Sequence[float]) -> list[float]:
    """Each lr over the first that moves; 1 each where none does.

    >>> relative([0.0, 0.5, 0.25]), relative([0.0, 0.0])
    ([0.0, 1.0, 0.5], [1.0, 1.0])
    """
    first = first_moving(lrs)
    return [lr / first for lr in lrs] if first else [1.0] * len(lrs)


def lr_ratios(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """Each group's lr as a part of the largest, so that one factor on all changes nothing; rounding aside."""
    lrs = lrs_of(optimizer)
    largest = max(lrs)
    return tuple(round(lr / largest, 9) if largest > 0 else 1.0 for lr in lrs)


def begun(groups: Groups) -> list[float]:
    """For groups whose every lr is 0, as at a warm-up's start: what a scheduler says they will be; 1 if none does."""
    lrs = [float(group.get("initial_lr", 0.0)) for group in groups]
    return lrs if any(lrs) else [1.0] * len(lrs)


def scheduled(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an lr scheduler has left its mark on the groups."""
    return any("initial_lr" in group for group in optimizer.param_groups)


def put_lrs(optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> None:
    """Write each group's lr; one that is a tensor is filled, since compiled steps hold on to it."""
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        if isinstance(group["lr"], Tensor):
            with torch.no_grad():
                group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the lr of the first group that moves, the others' ratios to it kept.

    >>> w, v = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    >>> optimizer = torch.optim.SGD([{"params": [w]}, {"params": [v], "lr": 0.25}], lr=0.5)
    >>> set_lr(optimizer, 0.1)
    >>> lrs_of(optimizer)
    [0.1, 0.05]
    """
    put_lrs(optimizer, [lr * ratio for ratio in relative(lrs_of(optimizer))])


def replace_zero_lrs(optimizer: torch.optim.Optimizer) -> bool:
    """Where every lr is 0, write those that the groups will have (see `begun`); return whether so."""
    if lr_of(optimizer) > 0:
        return False
    put_lrs(optimizer, begun(optimizer.param_groups))
    return True


def has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every group has a momentum: the setting of that name, or the first of its betas."""
    return all("momentum" in group or "betas" in group for group in optimizer.param_groups)


def put_momentum(optimizer: torch.optim.Optimizer, momentum: float | None) -> None:
    """Write a momentum, unless it is None, into every group: `momentum`, or the first of its betas."""
    if momentum is None:
        return
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, *tuple(group["betas"])[1:])
        else:
            group["momentum"] = momentum
            if momentum == 0 and group.get("nesterov"):  # which torch refuses without momentum
                group["nesterov"] = False


def largest_momentum(optimizer: torch.optim.Optimizer) -> float:
    """The largest `momentum` of any group; 0 where none has that setting."""
    return max(float(group.get("momentum", 0.0)) for group in optimizer.param_groups)


def adapts(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the method counts as adaptive, told by the names of its settings alone, whatever its class."""
    return any(name in optimizer.param_groups[0] for name in ("eps", "betas"))


def settings_of(optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """All but the lr that a stability limit depends on."""
    return tuple([group.get(name) for group in optimizer.param_groups for name in _SETTINGS])


def described(optimizer: torch.optim.Optimizer) -> str:
    """The settings in words, one set per group, equal ones once."""
    return "; ".join(dict.fromkeys(_words(group) for group in optimizer.param_groups))


def _words(group: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={group[name]}" for name in _SETTINGS if group.get(name) is not None)
