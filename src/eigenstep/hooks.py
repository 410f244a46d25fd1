"""What the code of a hook would do, read and never run: whether it names gradients, writes, or returns something."""

import dis
import functools
import inspect
import itertools
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_TRUSTED = ("torch.", "eigenstep.")  # whose own functions are not followed
# Names that speak of gradients, or end like a write in place, without being one.
_MODES = {"no_grad", "enable_grad", "set_grad_enabled", "is_grad_enabled", "requires_grad", "requires_grad_"}
_WRITTEN = {"grad", "data"}  # attributes by which a hook changes a gradient or a parameter
_KEEPING = {"append", "print", "info", "debug", "write", "log", "update", "add_scalar"}  # calls that return nothing


@dataclass(frozen=True)
class Deeds:
    """What a hook's code names, itself or in a Python function that it calls.

    readable: False for compiled functions, of which nothing is known.
    gradients: it names gradients.
    writes: it writes in place (`mul_`, `p.grad = ...`).
    may_write: or it may, by what also serves to keep accounts: `a[i] = b`, `a += b`, a step; in its own code.
    returns: its own code returns something.
    """

    readable: bool
    gradients: bool
    writes: bool
    may_write: bool
    returns: bool

    @property
    def looks_on(self) -> bool:
        """Whether it certainly changes nothing: neither what it is given, nor by what it returns."""
        return self.readable and not (self.writes or self.may_write or self.returns)


def deeds_of(hook: Any) -> Deeds:
    """Read the code of a hook: a function, a bound method, a partial, or an object with `__call__`.

    >>> deeds_of(lambda grad: print(grad)).looks_on, deeds_of(lambda grad: grad.mul_(2)).looks_on
    (True, False)
    """
    called = called_by(hook)
    own = function_of(called)
    if own is None:
        return Deeds(readable=False, gradients=False, writes=False, may_write=False, returns=False)
    codes = [own.__code__, *_codes(called, set())]
    told = {name for code in codes for name in (*code.co_names, *code.co_consts) if isinstance(name, str)}
    names = {name for name in told if name.isidentifier()} - _MODES  # constants too: getattr(p, "grad")
    stored = {i.argval for code in codes for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"}
    return Deeds(
        readable=True,
        gradients=any("grad" in name for name in names),
        writes=any(name.endswith("_") and not name.endswith("__") for name in names) or bool(stored & _WRITTEN),
        may_write=_may_write(own.__code__),
        returns=_returns(own.__code__),
    )


def _may_write(code: types.CodeType) -> bool:
    """Whether code stores items, assigns in place, or takes a step."""
    steps = list(dis.get_instructions(code))
    stores = any(i.opname == "STORE_SUBSCR" or (i.opname == "BINARY_OP" and i.argrepr.endswith("=")) for i in steps)
    return stores or "step" in code.co_names


def _returns(code: types.CodeType) -> bool:
    """Whether code returns something other than None, or than what a call that only keeps accounts gives."""
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "RESUME", "NOP")]
    for before, now in itertools.pairwise(steps):
        nothing = (before.opname == "LOAD_CONST" and before.argval is None) or (
            before.opname == "CALL" and not _KEEPING.isdisjoint(code.co_names[:2])
        )
        if (now.opname == "RETURN_VALUE" and not nothing) or (now.opname == "RETURN_CONST" and now.argval is not None):
            return True
    return False


def _codes(called: Any, seen: set[int]) -> Iterator[types.CodeType]:
    """The code of a function, of those nested in it, and of the Python functions that it can name."""
    function = function_of(called)
    if function is None or id(function) in seen or home_of(function).startswith(_TRUSTED):
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


def called_by(hook: Any) -> Any:
    """Return what runs when a hook is called: itself, or an object's `__call__`."""
    return hook if function_of(hook) else hook.__call__


def function_of(called: Any) -> types.FunctionType | None:
    """Return the Python function behind a function, a bound method or a partial; None if there is none."""
    while isinstance(called, functools.partial):
        called = called.func
    called = getattr(called, "__func__", called)
    return called if isinstance(called, types.FunctionType) else None


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def home_of(called: Any) -> str:
    """Return the module whose code runs; unlike __module__, no decorator copies it."""
    function = function_of(called)
    return "" if function is None else str(function.__globals__.get("__name__", ""))


def title_of(hook: Any) -> str:
    """Return a hook's name for a message."""
    return str(getattr(function_of(hook) or hook, "__qualname__", None) or type(hook).__name__)
