"""What must hold of a batch's loss: one finite real number, the same at every call; what stands still; what to say."""

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eigenstep.errors import InvalidValue
from eigenstep.objective.data.loader import subset_note
from eigenstep.objective.dropout import recurrent_dropouts

if TYPE_CHECKING:
    from eigenstep.objective.objective import Objective

NOT_TRAINED = "not the curvature that your optimiser sees: BatchNorm is in eval mode"
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


def notes_of(
    objective: "Objective", unreached: tuple[str, ...], outside: int, unmoved: int, strange: str | None
) -> Iterator[str]:
    """Yield what a reader of an objective's results should know; the rest is what its check has found."""
    if unreached:
        yield f"left out, not reached by the loss: {', '.join(unreached)}"
    if outside:
        yield (
            f"the loss also depends on {outside} trainable parameters outside the model, held as they are; if "
            "they are trained, give their module too: Objective([model, other], ...)"
        )
    if objective.batches.ignored:
        yield f"batches of weight 0, which do not count: {objective.batches.ignored}"
    if unmoved and not objective._inherits:
        yield f"batches that reach no parameter, and count as constant: {unmoved}"
    if strange is not None:
        yield strange
    if objective.hook is not None:
        yield f"the gradient hook {objective.hook} is no part of the loss: left out"
    norms = [m for m in objective.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.running_mean is not None]  # the others use the batch in either mode
    frozen = [m for m in norms if not m.training]
    if norms and objective.mode == "eval":
        yield NOT_TRAINED
    elif frozen:
        yield f"{len(frozen)} of {len(norms)} BatchNorm layers were in eval mode, and measured so"
    elif norms:
        yield "BatchNorm in train mode: each batch is normalised by itself, so how the data are cut matters"
    drops = bool(recurrent_dropouts(objective.model))
    if objective.dropout == "fixed" and objective.mode == "train":
        yield f"dropout held at one mask per batch (seed {objective.seed})"
    elif objective.mode == "train" and (objective._no_dropout.met or drops):
        yield "dropout switched off"
    for note in (subset_note(objective.batches.source), objective.batches.intake.note()):
        if note is not None:
            yield note
