"""Copies of a model and its optimizer that may be stepped freely, and what must hold before they are made."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eigenstep.bridge.param_groups import params_of
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.objective import Objective
from eigenstep.objective.parameters import refuse_outsiders

_TORCHS_OWN = ("_optimizer_", "_zero_grad", "_warned")  # hooks and the like, which a copy must not carry


def refuse_foreign(what: str, objective: Objective, optimizer: Any) -> None:
    """Raise unless `optimizer` is a torch optimizer that holds parameters of the objective's model, and no others."""
    refuse_unseen(what, objective, optimizer)
    held = {id(p) for p in params_of(optimizer)}
    if not {id(p) for p in objective.params} & held:
        raise InvalidValue(
            f"{what}: the optimizer holds none of the objective's parameters; give it model.parameters()"
        )


def refuse_unseen(what: str, objective: Objective, optimizer: Any) -> None:
    """Raise unless `optimizer` is a torch optimizer all of whose parameters are the model's; the loss is not called."""
    name = type(optimizer).__name__
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):
        raise Unsupported(f"{what}: {name} wraps {type(inner).__name__}; pass the one that it wraps, .optimizer")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise Unsupported(f"{what}: {name} is not a torch optimizer; pass a torch.optim.Optimizer")
    refuse_outsiders(what, objective.model, optimizer)


def copied(what: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return copies of both, the optimizer's holding the copied parameters, without gradients and step hooks."""
    memo: dict[int, Any] = {}
    try:
        twin = copy.deepcopy(model, memo)
        stepper = copy.deepcopy(optimizer, memo)
        for name, value in vars(optimizer).items():  # torch copies state and groups only, not a subclass's attributes
            if name not in vars(stepper) and name != "step" and not name.startswith(_TORCHS_OWN):
                setattr(stepper, name, copy.deepcopy(value, memo))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unsupported(
            f"{what}: the model or the optimizer cannot be copied ({reason}); keep only parameters, buffers and plain "
            "attributes on them, then copy.deepcopy works"
        ) from error
    for p in twin.parameters():
        p.grad = None
    return twin, stepper


def take_step(optimizer: torch.optim.Optimizer, closure: Callable[[], Tensor]) -> None:
    """Compute the gradients and step once; an optimizer that evaluates the loss itself (LBFGS) is given the closure."""
    parameter = inspect.signature(optimizer.step).parameters.get("closure")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        optimizer.step(closure)  # type: ignore[arg-type]
        return
    closure()
    optimizer.step()
