"""What must hold of a batch's loss: one finite real number, the same at every call; and what in it stands still."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from eigenstep.errors import InvalidValue

SAME = 100.0  # units of rounding by which a loss may differ between two calls: sums in another order, on a GPU


def checked(out: Any, number: int = 0) -> Tensor:
    """Return a batch's loss as a scalar, refused unless it is one finite real number."""
    where = "on the first batch" if number == 0 else f"on batch {number} (counted from 0)"
    if not isinstance(out, Tensor):
        has = " (it has a .loss: return that)" if isinstance(getattr(out, "loss", None), Tensor) else ""
        raise InvalidValue(
            f"Objective: loss returned a {type(out).__name__}{has} {where}; a scalar tensor is needed, not .item()"
        )
    if out.numel() != 1 or out.is_complex():
        raise InvalidValue(
            f"Objective: loss returned a tensor of shape {tuple(out.shape)} {where}; a scalar is needed: take .mean() "
            "over the batch, or .sum() with reduction='sum'"
        )
    if not bool(out.isfinite()):
        raise InvalidValue(
            f"Objective: the loss is {float(out.detach())}, not finite, {where}; measure where it is finite, and look "
            "for inputs that are not, or give a batch in which nothing counts weight 0"
        )
    return out.reshape(())


class StopGradients(TorchFunctionMode):
    """Notices whether values that depend on the parameters leave the graph: detach, .data, item(), or under no_grad.

    What is computed from them stands still when the loss is differentiated, but not when the parameters move: neither
    the gradient nor its derivative need then be the loss's own.
    """

    _LEAVE = frozenset(("detach", "detach_", "item", "tolist", "numpy", "__float__", "__array__"))

    def __init__(self) -> None:
        super().__init__()
        self.met = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass every call on; look at what it was given."""
        out = func(*args, **(kwargs or {}))
        if not self.met:
            data = func == Tensor.data.__get__  # type: ignore[attr-defined]
            still = not torch.is_grad_enabled() and isinstance(out, Tensor) and out.is_floating_point()
            if data or func.__name__ in self._LEAVE or (still and func.__name__ != "__get__"):
                self.met = any(held.requires_grad for held in _tensors((args, tuple((kwargs or {}).values()))))
        return out


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def refuse_change(number: int, one: float, two: float, dtype: torch.dtype) -> None:
    """Raise InvalidValue when two calls of the loss on the same batch differ by more than sums in another order may."""
    if abs(one - two) > SAME * torch.finfo(dtype).eps * max(abs(one), 1e-30):
        raise InvalidValue(
            f"Objective: the loss differs between two calls on the same batch, number {number} ({one:.9g}, then "
            f"{two:.9g}): something in it samples or keeps state; use dropout='fixed' to hold every mask, or make the "
            "layer deterministic"
        )


def announce(message: str) -> None:
    """Say aloud that another way is taken than the one asked for."""
    warnings.warn(message, stacklevel=3)
