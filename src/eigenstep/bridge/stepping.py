"""What runs when an optimizer steps: patches of its methods refused, hooks that change gradients or weights named."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from eigenstep.errors import Unsupported
from eigenstep.hooks import Deeds, called_by, deeds_of, function_of, home_of, title_of

_METHODS = ("step", "_init_group", "_update")  # what makes up a step in torch's classes
_HARMLESS = ("torch.", "eigenstep.")  # whose own wrappers and hooks add nothing to the update


def refuse_other_steps(optimizer: torch.optim.Optimizer, known: type, instead: str) -> None:
    """Raise Unsupported unless `optimizer` steps by the methods of the known class, neither overridden nor patched.

    Wrappers that torch itself puts around a step are seen through: the profiler's, a scheduler's count of steps, the
    compiler's. Any other may do anything before and after, however faithfully it carries the name of what it wraps.
    """
    name = type(optimizer).__name__
    for method in _METHODS:
        understood = _inmost(getattr(known, method, None))
        if method in vars(optimizer) and _inmost(vars(optimizer)[method]) is not understood:
            raise Unsupported(
                f"rule_of: the {method} of this {name} has been patched, so that it may be another rule than "
                f"{known.__name__}'s; pass an optimizer whose {method} is its own (del optimizer.{method} takes the "
                f"patch off), or {instead}"
            )
        if _inmost(getattr(type(optimizer), method, None)) is not understood:
            raise Unsupported(
                f"rule_of: {name} is {known.__name__} with a {method} of its own, perhaps another rule; {instead}"
            )
        if understood is not None and home_of(understood) not in {cls.__module__ for cls in known.__mro__}:
            raise Unsupported(
                f"rule_of: {known.__name__}.{method} has been patched by {home_of(understood) or 'something'}, for all "
                f"optimizers of that class; take the patch off, or {instead}"
            )


def name_hooks(optimizer: torch.optim.Optimizer) -> None:
    """Refuse step hooks that rewrite gradients, and warn of those that may change what an update does.

    Hooks are read, not run: one that names gradients or writes in place, itself or in a Python function that it calls,
    is taken to mean it. torch's own and eigenstep's are harmless; so is one that does neither.
    """
    before = (_global_optimizer_pre_hooks, optimizer._optimizer_step_pre_hooks)
    after = (_global_optimizer_post_hooks, optimizer._optimizer_step_post_hooks)
    name = type(optimizer).__name__
    for hook, deeds in _read(before):
        if deeds.gradients and deeds.writes:
            raise Unsupported(
                f"rule_of: the pre-step hook {hook} of this {name} changes gradients, so that an update is not "
                f"the {name} that is read here; change them in the loss or in the training loop, or take the hook off "
                "(handle.remove()) to have the plain optimizer read"
            )
        if deeds.gradients or not deeds.readable:
            _say(f"pre-step hook {hook} reads gradients; if it also changes them, {name}")
    for hook, deeds in _read(after):
        if deeds.writes:
            _say(f"post-step hook {hook} writes in place; if it changes parameters, {name}")


def _read(tables: tuple[Mapping[int, Any], ...]) -> list[tuple[str, Deeds]]:
    """The name and the deeds of every hook that is not torch's or eigenstep's own."""
    hooks = [hook for table in tables for hook in table.values()]
    return [(title_of(hook), deeds_of(hook)) for hook in hooks if not home_of(called_by(hook)).startswith(_HARMLESS)]


def _inmost(method: Any) -> Any:
    """The function under the wrappers that torch itself puts around it."""
    function = function_of(method) or method
    while home_of(function).startswith("torch."):
        within = getattr(function, "__wrapped__", None) or getattr(function, "_torchdynamo_orig_callable", None)
        if within is None:
            break
        function = function_of(within) or within
    return function


def _say(message: str) -> None:
    warnings.warn(f"rule_of: the {message} as read is not the whole update", stacklevel=3)
