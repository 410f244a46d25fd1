"""Copies of a model and its optimizer that may be stepped freely, and what must hold before they are made."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eigenstep.errors import EigenstepError, InvalidValue, Unsupported
from eigenstep.objective import Objective
from eigenstep.objective.parameters import gradient_hook, refuse_gradient_hook, refuse_outsiders

_TORCHS_OWN = ("_optimizer_", "_zero_grad", "_warned")  # hooks and the like, which a copy must not carry


def refuse_foreign(what: str, objective: Objective, optimizer: Any) -> None:
    """Raise unless `optimizer` is a torch optimizer that holds parameters of the objective's model, and no others."""
    refuse_unseen(what, objective, optimizer)
    refuse_missing(what, objective, optimizer)


def refuse_unseen(what: str, objective: Objective, optimizer: Any) -> None:
    """Raise unless `optimizer` is a torch optimizer all of whose parameters are the model's; the loss is not called."""
    name = type(optimizer).__name__
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):
        raise Unsupported(f"{what}: {name} wraps {type(inner).__name__}; pass the one that it wraps, .optimizer")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise Unsupported(f"{what}: {_named(optimizer)} is not a torch optimizer; pass a torch.optim.Optimizer")
    refuse_outsiders(what, objective.model, optimizer)
    refuse_gradient_hook(what, gradient_hook(objective.model) or objective.hook)


def refuse_climbing(what: str, optimizer: torch.optim.Optimizer) -> None:
    """Raise Unsupported for an optimizer that maximises: what is judged here is how a loss comes down."""
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise Unsupported(
            f"{what}: {type(optimizer).__name__} has maximize=True; give the loss that is minimised (the negated one), "
            "and build the optimizer with maximize=False"
        )


def refuse_missing(what: str, objective: Objective, optimizer: Any) -> None:
    """Raise InvalidValue unless an optimizer holds every measured parameter, Unsupported for what is none."""
    if not isinstance(getattr(optimizer, "param_groups", None), list):
        raise Unsupported(f"{what}: {_named(optimizer)} is not a torch optimizer; pass a torch.optim.Optimizer")
    held = {id(p) for group in getattr(optimizer, "param_groups", []) for p in group["params"]}
    if missing := [n for n, p in zip(objective.names, objective.params, strict=True) if id(p) not in held]:
        raise InvalidValue(
            f"{what}: the optimizer does not hold {missing[0]!r} ({len(missing)} of {len(objective.names)} in all); "
            "build it on this model's parameters, or choose those that it trains with Objective(parameters=...)"
        )


def _named(thing: Any) -> str:
    """A number or a word as it is written, anything else by its class."""
    return repr(thing) if isinstance(thing, (str, float, int)) else type(thing).__name__


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
    """Compute the gradients and step once; an optimizer that evaluates the loss itself (LBFGS) is given the closure.

    Raises Unsupported where the optimizer's own step fails.
    """
    parameter = inspect.signature(optimizer.step).parameters.get("closure")
    alone = parameter is None or parameter.default is not inspect.Parameter.empty
    if alone:
        closure()
    try:
        optimizer.step() if alone else optimizer.step(closure)  # type: ignore[arg-type]
    except EigenstepError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unsupported(
            f"{type(optimizer).__name__} cannot take a step here ({reason}); take one with it yourself, and mend what "
            "stops it"
        ) from error
