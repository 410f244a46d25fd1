"""One training step on a copy: the plain loop's, or the user's own function's."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eigenstep.bridge.param_groups import lrs_of, params_of
from eigenstep.errors import InvalidValue
from eigenstep.objective import Objective, world
from eigenstep.objective.evaluation import usable
from eigenstep.rehearsal.own import Own, written
from eigenstep.stability.copies import take_step

Loop = Callable[[nn.Module, torch.optim.Optimizer, Any], Any]
Step = Callable[[nn.Module, torch.optim.Optimizer, Any], float]
_IDLE = 32  # calls without a change; a gradient scaler may skip its first 16 steps, and accumulation over 16 is usual
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

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> float:
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
        if all(p.grad is None for p in params):
            raise InvalidValue(f"{what}: the loss {_TRAIN_IT}")
        return float(values[0])

    return step


class UsersLoop:
    """The user's loop(model, optimizer, batch) -> loss, with its arguments alone; made when the rehearsal begins.

    own: the user's model and optimizer, begun: copies of both. Raises InvalidValue, the user's things as they were, for
    a loop that trains others than its arguments, moves the user's scheduler, gives no loss, or sets the lr.
    """

    def __init__(
        self,
        what: str,
        loop: Loop,
        own: tuple[nn.Module, torch.optim.Optimizer],
        begun: tuple[nn.Module, torch.optim.Optimizer],
    ) -> None:
        self.what, self.loop, self.own = what, loop, Own(own, begun)
        self._moved, self._idle = False, 0

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> float:
        """Take one step; the loss before it."""
        lrs, before = lrs_of(optimizer), written(model)
        try:
            with world.callers_device(), torch.enable_grad():
                value = _loss(self.what, self.loop(model, optimizer, usable(batch)))
            self._refuse_outside()
        except BaseException:
            self.own.put_back()
            raise
        if written(model) != before:
            self._moved, self._idle = True, 0
        elif any(lrs) and math.isfinite(value):
            self._idle += 1
        if self._idle == _IDLE:
            self._refuse_idle()
        if lrs_of(optimizer) != lrs:
            raise InvalidValue(
                f"{self.what}: loop= changes the lr, which is being looked for; leave the scheduler out of it and give "
                "schedule= instead"
            )
        return value

    def close(self) -> None:
        """Raise InvalidValue if there were calls and none of them changed a parameter."""
        if self._idle and not self._moved:
            self._refuse_idle()

    def _refuse_outside(self) -> None:
        if self.own.trained:
            raise InvalidValue(
                f"{self.what}: loop= trains your own model instead of the one that it is given; let it use its "
                "arguments model, optimizer and batch alone (your model is as it was)"
            )
        if self.own.rescheduled:
            names = " and ".join(type(s).__name__ for s in self.own.schedulers) or "its lr or another setting"
            raise InvalidValue(
                f"{self.what}: loop= changes your own optimizer's schedule ({names}), which is tried apart from it; "
                "leave the scheduler out of loop= (yours is as it was)"
            )

    def _refuse_idle(self) -> None:
        raise InvalidValue(
            f"{self.what}: loop= does not train the model that it is given ({self._idle} calls left its parameters as "
            "they were); let it do zero_grad, backward and optimizer.step() with its arguments, the step in at least "
            f"one of {_IDLE} calls"
        )


def _loss(what: str, value: Any) -> float:
    """The loss that a loop returned, as a number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.detach())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise InvalidValue(
        f"{what}: loop= returned {type(value).__name__}; let it return the batch's loss, a scalar tensor or a number"
    )
