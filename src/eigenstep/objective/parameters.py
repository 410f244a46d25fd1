"""Which of a model's parameters are measured, and which models cannot be."""

import fnmatch
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from eigenstep.errors import InvalidValue, UnknownName, Unsupported
from eigenstep.hooks import deeds_of, title_of

_OUTPUTS = {  # what criterions, torch's own and others, call their first argument
    *(
        "input",
        "inputs",
        "input1",
        "x1",
        "log_input",
        "log_probs",
        "logits",
        "anchor",
        "output",
        "outputs",
        "var",
        "mu",
    ),
    *("pred", "preds", "prediction", "predictions", "y_pred", "y_hat", "yhat"),
}
LINE = "Objective(model, lambda model, batch: criterion(model(batch[0]), batch[1]), data)"
_WRAPPED = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DataParallel", "DeepSpeedEngine")


def together(model: Any) -> nn.Module:
    """Return a model, or several as one: a ModuleList or ModuleDict of them; torch.compile's wrappers taken off."""
    try:
        if isinstance(model, Mapping) and not isinstance(model, nn.Module):
            return nn.ModuleDict({str(name): together(part) for name, part in model.items()})
        if isinstance(model, (list, tuple)) and model:
            return nn.ModuleList([together(part) for part in model])
    except (KeyError, TypeError) as error:
        raise InvalidValue(f"Objective: a module cannot be named so ({error}); choose a plain word") from error
    if not isinstance(model, nn.Module):
        raise Unsupported(
            f"Objective: model is a {type(model).__name__}; a torch.nn.Module is needed, or a list or dict of several"
        )
    return getattr(model, "_orig_mod", model)


def parts_of(model: nn.Module) -> list[nn.Module]:
    """The modules that have a mode of their own: a bare container's parts, else the model itself."""
    return list(model.children()) if type(model) in (nn.ModuleList, nn.ModuleDict) else [model]


def refuse_outsiders(what: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise InvalidValue if an optimizer trains parameters that are not the model's: they would not be seen."""
    own = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    strange = sum(id(p) not in own for p in held)
    if strange and strange == len(held):
        raise InvalidValue(
            f"{what}: {strange} of the optimizer's {strange} parameters are not the model's; build the optimizer from "
            "objective.model.parameters(), after any change of the model (a copy, .to(device), new layers)"
        )
    if strange:
        raise InvalidValue(
            f"{what}: {strange} of the optimizer's {len(held)} parameters are not the model's, so what they do would "
            "not be seen; give all modules that it trains, as with a criterion that has parameters: "
            "Objective([model, criterion], lambda both, batch: both[1](both[0](batch[0]), batch[1]), data)"
        )


def refuse_criterion(loss: Any) -> None:
    """Raise Unsupported unless `loss` is a function of a model and a batch, naming the line for a criterion."""
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        what = f"the class {loss.__name__}: make one first, criterion = {loss.__name__}(), and"
    elif not callable(loss):
        what = (
            f"a {type(loss).__name__}; a function of a model and a batch is needed, as with criterion = nn.MSELoss():"
        )
    else:
        try:
            names = list(inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters)
        except (TypeError, ValueError):
            return  # a function that does not tell
        if not names or names[0] not in _OUTPUTS:
            return
        name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "criterion")
        what = f"{name}, a function of ({', '.join(names[:2])}), not of a model and a batch; with it as criterion,"
    learnt = isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters())
    line = LINE
    if learnt:
        line = "Objective([model, criterion], lambda both, batch: both[1](both[0](batch[0]), batch[1]), data)"
    raise Unsupported(f"Objective: loss is {what} write {line}")


def refuse_wrapped(model: nn.Module) -> None:
    """Raise Unsupported for modules whose parameters are spread over processes."""
    kinds = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    if found := [name for name in _WRAPPED if name in kinds]:
        raise Unsupported(
            f"Objective: {found[0]} is not supported: its products need communication between processes; pass the "
            "plain module (model.module for DDP) on one process"
        )
    if any(type(p).__name__ == "DTensor" or type(p.data).__name__ == "DTensor" for p in model.parameters()):
        raise Unsupported("Objective: the parameters are sharded (DTensor); pass the plain module on one process")


def chosen_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Return the trainable parameters that match any of the names or glob patterns, tied ones once."""
    every = dict(model.named_parameters(remove_duplicate=False))
    if lazy := [name for name, p in every.items() if nn.parameter.is_lazy(p)]:
        raise InvalidValue(
            f"Objective: parameter {lazy[0]!r} of a lazy module has no shape yet; run one batch through the model first"
        )
    if made := [name for name, p in every.items() if p.is_inference()]:
        raise InvalidValue(
            f"Objective: parameter {made[0]!r} was made under torch.inference_mode() and can never have a gradient; "
            "build or load the model outside of it"
        )
    trainable = {name: p for name, p in every.items() if p.requires_grad}
    if not trainable:
        raise InvalidValue(
            "Objective: the model has no trainable parameters; set requires_grad on those to be measured"
        )
    wanted = trainable
    if patterns is not None:
        wanted = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            hits = {n: p for n, p in every.items() if fnmatch.fnmatchcase(n, pattern)}
            if not hits:
                raise UnknownName.among("Objective: parameter", pattern, every)
            wanted.update({n: p for n, p in hits.items() if p.requires_grad})
        wanted = {n: p for n, p in trainable.items() if n in wanted}
        if not wanted:
            raise InvalidValue(
                "Objective: all the parameters asked for are frozen; set requires_grad on those to be measured"
            )
    once = {id(p): (n, p) for n, p in reversed(wanted.items())}
    single = {n: p for n, p in wanted.items() if once[id(p)][0] == n}
    if len({p.device for p in single.values()}) > 1:
        raise Unsupported(
            "Objective: the parameters lie on several devices; move the model to one, or choose parameters="
        )
    if any(p.is_complex() for p in single.values()):
        raise Unsupported("Objective: complex parameters are not supported; train torch.view_as_real(p) instead")
    return single


def gradient_hook(model: nn.Module) -> str | None:
    """Return the name of a hook that may change the gradients of a model's parameters, and whose; None without one.

    Hooks of parameters (before and after accumulation) and of modules' backward passes are read, not run: one that
    returns nothing and writes nothing in place only looks on.
    """
    for name, p in model.named_parameters():
        for hooks in (p._backward_hooks, getattr(p, "_post_accumulate_grad_hooks", None)):
            for hook in (hooks or {}).values():
                if not deeds_of(hook).looks_on:
                    return f"{title_of(hook)} of {name!r}"
    for name, module in model.named_modules():
        for hook in (*module._backward_hooks.values(), *module._backward_pre_hooks.values()):
            if not deeds_of(hook).looks_on:
                return f"{title_of(hook)} of module {name!r}"
    return None


def refuse_gradient_hook(what: str, hook: str | None) -> None:
    """Raise Unsupported where a hook may change the gradients that an optimizer gets: they are not the loss's then."""
    if hook is not None:
        raise Unsupported(
            f"{what}: the gradient hook {hook} may change what the optimizer gets, which the loss does not show; say "
            "the same by an lr of its own (a param group), requires_grad_(False) or the loss, or take the hook off "
            "(handle.remove()) for the answer without it"
        )
