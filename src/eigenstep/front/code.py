"""The line of code that puts an lr into a user's script."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from eigenstep.bridge.param_groups import begun, lr_of, relative
from eigenstep.rehearsal import attached_to

APPLIED = "scheduler = found.apply(optimizer)"  # where `found` is what check returned


def line_of(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float) -> str:
    """Return one line of Python: the optimizer built with this lr, or its groups' lrs set, their ratios kept.

    An optimizer that has begun (its state is worth keeping), has several groups or is not torch's is not built anew.
    Where a scheduler is attached, which would write over an lr, the line applies what was found to both. Settings that
    are torch's defaults are left out, as people write it.

    >>> layer = nn.Linear(2, 1)
    >>> line_of(layer, torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9), 0.034567)
    'optimizer = torch.optim.SGD(model.parameters(), lr=0.0346, momentum=0.9)'
    >>> line_of(layer, torch.optim.SGD([{"params": [layer.weight]}, {"params": [layer.bias], "lr": 1.0}], lr=0.1), 0.2)
    'for group in optimizer.param_groups: group["lr"] *= 2'
    """
    attached = attached_to("check", optimizer)
    if attached is not None:
        return f"{APPLIED}  # scales your {type(attached).__name__} so that its peak is {lr:.3g}"
    kind, groups = type(optimizer), optimizer.param_groups
    whole = len(groups) == 1 and {id(p) for p in groups[0]["params"]} == {id(p) for p in model.parameters()}
    plain = not optimizer.state and not isinstance(groups[0]["lr"], Tensor)
    if whole and plain and getattr(torch.optim, kind.__name__, None) is kind:
        told = {"lr": lr, **_changed(kind, groups[0])}
        given = ", ".join(f"{name}={_shown(value)}" for name, value in told.items())
        return f"optimizer = torch.optim.{kind.__name__}(model.parameters(), {given})"
    now = lr_of(optimizer)
    if now == 0:
        lrs = ", ".join(f"{lr * ratio:.3g}" for ratio in relative(begun(groups)))
        return f'for group, lr in zip(optimizer.param_groups, [{lrs}]): group["lr"] = lr'
    return f'for group in optimizer.param_groups: group["lr"] *= {lr / now:.3g}'


def _changed(kind: type[torch.optim.Optimizer], group: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not the class's defaults."""
    usual = {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items()}
    return {
        name: value
        for name, value in group.items()
        if name in usual and name not in ("params", "lr") and not _same(value, usual[name])
    }


def _same(value: Any, usual: Any) -> bool:
    return bool(value == usual) if not isinstance(value, (list, tuple)) else tuple(value) == tuple(usual)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else repr(value)
