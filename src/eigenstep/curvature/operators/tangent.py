"""The gradient's tangent map recorded once by torch.func.linearize, kept from what torch's tracing gets wrong."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction as _Reduction  # noqa: N812 (torch's own name for it)
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from torch.overrides import TorchFunctionMode

from eigenstep.curvature.operators import vectors as vec
from eigenstep.errors import EigenstepError, Unsupported
from eigenstep.objective.graph import first_line
from eigenstep.objective.objective import Objective
from eigenstep.objective.world import calls_pass

WRONG = 1e-3  # of a product: far above rounding in float32, far below what a wrongly recorded operation is off by
AGAIN = 100.0  # units of rounding by which two products may differ: sums in another order, on a GPU

Product = Callable[[list[Tensor]], Sequence[Tensor]]


def tangent_of(objective: Objective, i: int, batch: Any, exact: Product) -> Product:
    """Return parts -> (Hessian of batch i's loss) parts, recorded; the first product is compared with `exact`.

    Raises Unsupported where torch cannot record the loss, or records it wrongly: in torch 2.13 its constants are
    overwritten by in-place operations (functionalize undoes that), what is drawn is drawn anew at every product, and
    mse_loss ends the process (Recordable computes such losses otherwise).
    """
    params = objective.params
    point = tuple(p.detach() for p in params)

    def gradient(*at: Tensor) -> Any:
        def value(*inner: Tensor) -> Tensor:
            placed = {id(p): x for p, x in zip(params, inner, strict=True)}
            with calls_pass(Recordable()):
                return objective.batch_loss(i, batch, placed).reshape(())

        return torch.func.grad(value, argnums=tuple(range(len(at))))(*at)

    with warnings.catch_warnings():  # torch's own tracing warns about its own deprecations
        warnings.simplefilter("ignore")
        try:
            try:
                _, tangent = torch.func.linearize(torch.func.functionalize(gradient), *point)
            except RuntimeError:  # some functions it cannot take: unless they work in place, all is well without
                _, tangent = torch.func.linearize(gradient, *point)
        except (EigenstepError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise _refused(f"torch cannot record this loss ({first_line(error)})") from error
    checked = False

    def product(parts: list[Tensor]) -> Sequence[Tensor]:
        nonlocal checked
        found: Sequence[Tensor] = tangent(*parts)
        if not checked:
            right, one, two = (objective.join(d) for d in (exact(parts), found, tangent(*parts)))
            size, epsilon = vec.norm(right), max(torch.finfo(p.dtype).eps for p in params)
            if not (vec.norm(one - right) <= WRONG * size and vec.norm(two - one) <= AGAIN * epsilon * size):
                raise _refused("torch records this loss wrongly: its products are not those of double backward")
            checked = True
        return found

    return product


def _refused(why: str) -> Unsupported:
    return Unsupported(f"HessianOperator: method='linearize': {why}; use method='graph', or leave method out")


class Recordable(TorchFunctionMode):
    """While active, losses that torch cannot record are computed from elementary functions, with the same values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass every call on, except those losses."""
        kwargs = kwargs or {}
        return _LOSSES.get(func, func)(*args, **kwargs)


def _reduced(loss: Tensor, size_average: Any, reduce: Any, reduction: str, weight: Tensor | None = None) -> Tensor:
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    if weight is not None:
        loss = loss * weight
    if reduction == "mean":
        return loss.mean() if weight is None else loss.sum() / weight.expand_as(loss).sum()
    return loss.sum() if reduction == "sum" else loss


def _mse(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    return _reduced((input - target) * (input - target), size_average, reduce, reduction, weight)


def _huber(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    off = (input - target).abs()
    loss = torch.where(off <= delta, off * off / 2, delta * (off - delta / 2))
    return _reduced(loss if weight is None else loss * weight, None, None, reduction)  # unlike mse_loss: not / weights


def _soft_margin(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    return _reduced(F.softplus(-target * input), size_average, reduce, reduction)


def _cross_entropy_of_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    share = 1.0 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * input + share * F.softplus(-input)
    return _reduced(loss if weight is None else loss * weight, size_average, reduce, reduction)


_LOSSES: dict[Any, Callable[..., Tensor]] = {
    F.mse_loss: _mse,
    F.binary_cross_entropy_with_logits: _cross_entropy_of_logits,
    F.huber_loss: _huber,
    F.soft_margin_loss: _soft_margin,
}
