"""What an optimizer is set to, read from its param groups: the ratios between the groups' lr, and everything else."""

from typing import Any

import torch

_NAMES = ("momentum", "nesterov", "dampening", "betas", "alpha", "weight_decay", "eps", "delta", "amsgrad")


def lr_ratios(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """Each group's lr as a part of the largest, rounding aside; 1 where nothing moves."""
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    largest = max(lrs)
    return tuple(round(lr / largest, 9) if largest > 0 else 1.0 for lr in lrs)


def settings_of(optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """All but the lr that a stability limit depends on."""
    return tuple([group.get(name) for group in optimizer.param_groups for name in _NAMES])


def described(optimizer: torch.optim.Optimizer) -> str:
    """The settings in words, one set per group, equal ones once."""
    groups = [
        " ".join(f"{name}={group[name]}" for name in _NAMES if group.get(name) is not None)
        for group in optimizer.param_groups
    ]
    return "; ".join(dict.fromkeys(groups))
