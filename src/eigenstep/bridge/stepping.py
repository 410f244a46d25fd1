"""What runs when an optimizer steps: patches of its methods refused, hooks that change gradients or weights named."""

import dis
import functools
import inspect
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from eigenstep.errors import Unsupported

_METHODS = ("step", "_init_group", "_update")  # what makes up a step in torch's classes
_HARMLESS = ("torch.", "eigenstep.")  # whose own wrappers and hooks add nothing to the update
# Names that speak of gradients, or end like a write in place, without being one.
_MODES = {"no_grad", "enable_grad", "set_grad_enabled", "is_grad_enabled", "requires_grad", "requires_grad_"}


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
        if understood is not None and _home(understood) not in {cls.__module__ for cls in known.__mro__}:
            raise Unsupported(
                f"rule_of: {known.__name__}.{method} has been patched by {_home(understood) or 'something'}, for all "
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
    for hook in _read(before):
        if hook.grads and hook.writes:
            raise Unsupported(
                f"rule_of: the pre-step hook {hook.name} of this {name} changes gradients, so that an update is not "
                f"the {name} that is read here; change them in the loss or in the training loop, or take the hook off "
                "(handle.remove()) to have the plain optimizer read"
            )
        if hook.grads:
            _say(f"pre-step hook {hook.name} reads gradients; if it also changes them, {name}")
    for hook in _read(after):
        if hook.writes:
            _say(f"post-step hook {hook.name} writes in place; if it changes parameters, {name}")


class _Hook(NamedTuple):
    """What the code of a hook names: gradients, and writing in place."""

    name: str
    grads: bool
    writes: bool


def _read(tables: tuple[Mapping[int, Any], ...]) -> list[_Hook]:
    return [_named(hook) for table in tables for hook in table.values()]


def _named(hook: Any) -> _Hook:
    """Read a hook's code; code that cannot be seen (a compiled function) counts as naming gradients."""
    called = hook if _function(hook) else hook.__call__
    if _home(called).startswith(_HARMLESS):
        return _Hook(_title(hook), False, False)
    codes = list(_codes(called, set()))
    told = {name for code in codes for name in (*code.co_names, *code.co_consts) if isinstance(name, str)}
    names = {name for name in told if name.isidentifier()} - _MODES  # constants too: getattr(p, "grad")
    stored = {i.argval for code in codes for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"}
    writes = any(name.endswith("_") and not name.endswith("__") for name in names) or bool(stored & {"grad", "data"})
    return _Hook(_title(hook), not codes or any("grad" in name for name in names), writes)


def _codes(called: Any, seen: set[int]) -> Iterator[types.CodeType]:
    """The code of a function, of those nested in it, and of the Python functions that it can name."""
    function = _function(called)
    if function is None or id(function) in seen or _home(function).startswith(_HARMLESS):
        return
    seen.add(id(function))
    within = [function.__code__]
    for code in within:
        yield code
        within += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    names = {name for code in within for name in code.co_names}
    owners = [getattr(called, "__self__", None), *(_content(cell) for cell in function.__closure__ or ())]
    for owner in owners:
        yield from _codes(owner, seen)
        for name in names:
            yield from _codes(inspect.getattr_static(type(owner), name, None), seen)
    for name in names:
        yield from _codes(function.__globals__.get(name), seen)


def _function(called: Any) -> types.FunctionType | None:
    """The Python function behind a function, a bound method or a partial; None if there is none."""
    while isinstance(called, functools.partial):
        called = called.func
    called = getattr(called, "__func__", called)
    return called if isinstance(called, types.FunctionType) else None


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _home(called: Any) -> str:
    """The module whose code runs; unlike __module__, no decorator copies it."""
    function = _function(called)
    return "" if function is None else str(function.__globals__.get("__name__", ""))


def _title(hook: Any) -> str:
    return str(getattr(_function(hook) or hook, "__qualname__", None) or type(hook).__name__)


def _inmost(method: Any) -> Any:
    """The function under the wrappers that torch itself puts around it."""
    function = _function(method) or method
    while _home(function).startswith("torch."):
        within = getattr(function, "__wrapped__", None) or getattr(function, "_torchdynamo_orig_callable", None)
        if within is None:
            break
        function = _function(within) or within
    return function


def _say(message: str) -> None:
    warnings.warn(f"rule_of: the {message} as read is not the whole update", stacklevel=3)
