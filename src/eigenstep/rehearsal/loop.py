"""One training step on a copy: the plain loop's, or the user's own function's."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eigenstep.bridge.param_groups import params_of
from eigenstep.errors import InvalidValue
from eigenstep.objective import Objective, world
from eigenstep.objective.evaluation import usable
from eigenstep.stability.copies import take_step

Loop = Callable[[nn.Module, torch.optim.Optimizer, Any], Any]
Step = Callable[[nn.Module, torch.optim.Optimizer, Any, bool], float]  # the last: whether it is a copy's first
_TRAIN_IT = (
    "does not train the model that it is given (no parameter of the copy has a gradient); let loss(model, batch) call "
    "its argument `model`, not a model from outside"
)


def refuse_loop(what: str, loop: Any) -> None:
    """Raise InvalidValue for what cannot be called as loop(model, optimizer, batch); None is no loop."""
    if loop is None:
        return
    call = "loop(model, optimizer, batch) that trains on the batch and returns its loss"
    if not callable(loop):
        raise InvalidValue(f"{what}: loop= is {type(loop).__name__}; give a function {call}")
    try:
        signature = inspect.signature(loop)
    except (TypeError, ValueError):  # a builtin: it tells nothing of its arguments
        return
    try:
        signature.bind(*"abc")
    except TypeError as error:
        raise InvalidValue(f"{what}: loop= does not take three arguments ({error}); give a function {call}") from error


def plain_loop(what: str, objective: Objective, clip: float | None) -> Step:
    """zero_grad, backward, clipping to the norm `clip`, step: the loop that most people write."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, first: bool) -> float:
        params = params_of(optimizer)
        values: list[Tensor] = []

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            with world.callers_device():
                loss = objective.loss(model, usable(batch))
                loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(params, clip)
            values.append(loss.detach())
            return loss

        take_step(optimizer, closure)
        if first and all(p.grad is None for p in params):
            raise InvalidValue(f"{what}: the loss {_TRAIN_IT}")
        return float(values[0])

    return step


def users_loop(
    what: str,
    loop: Loop,
    own: tuple[nn.Module, torch.optim.Optimizer],
    begun: tuple[nn.Module, torch.optim.Optimizer],
) -> Step:
    """The user's loop(model, optimizer, batch) -> loss, with its arguments alone.

    own: the user's model and optimizer, begun: copies of both. Raises InvalidValue, the user's things as they were, for
    a loop that trains others than its arguments, gives no loss, or sets the lr.
    """

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, first: bool) -> float:
        lrs = [float(group["lr"]) for group in optimizer.param_groups]
        before = _versions(model), _versions(own[0])
        with world.callers_device(), torch.enable_grad():
            value = _loss(what, loop(model, optimizer, usable(batch)))
        if _versions(own[0]) != before[1]:
            _put_back(own, begun)
            raise InvalidValue(
                f"{what}: loop= trains your own model instead of the one that it is given; let it use its arguments "
                "model, optimizer and batch alone (your model is as it was)"
            )
        if first and _versions(model) == before[0] and any(lrs) and math.isfinite(value):
            raise InvalidValue(
                f"{what}: loop= does not train the model that it is given; let it do zero_grad, backward and "
                "optimizer.step() with its arguments"
            )
        if [float(group["lr"]) for group in optimizer.param_groups] != lrs:
            raise InvalidValue(
                f"{what}: loop= changes the lr, which is being looked for; leave the scheduler out of it and give "
                "schedule= instead"
            )
        return value

    return step


def _versions(model: nn.Module) -> list[int]:
    """How often each parameter was written to."""
    return [p._version for p in model.parameters()]


def _put_back(own: tuple[nn.Module, torch.optim.Optimizer], begun: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    """Give the user's parameters, buffers and optimizer the values of the copies made before."""
    with torch.no_grad():
        for tensors in (nn.Module.parameters, nn.Module.buffers):
            for mine, copy in zip(tensors(own[0]), tensors(begun[0]), strict=True):
                mine.copy_(copy)
    own[1].load_state_dict(begun[1].state_dict())


def _loss(what: str, value: Any) -> float:
    """The loss that a loop returned, as a number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.detach())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise InvalidValue(
        f"{what}: loop= returned {type(value).__name__}; let it return the batch's loss, a scalar tensor or a number"
    )
