"""Functions of torch that have no second derivatives, wrong ones or sparse gradients, computed from others."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from torch.overrides import TorchFunctionMode


class Repaired(TorchFunctionMode):
    """While active, a few functions are computed in another way, with the same values.

    Weight normalisation: torch's fused _weight_norm has a wrong double backward on CPU (torch 2.13): the Hessian
    through it is not even symmetric, by up to a quarter of its norm. Embeddings with sparse=True, gather with
    sparse_grad=True: the gradient is the dense one. embedding_bag: a sum over rows; torch's own has no second
    derivatives.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass every call on, except those."""
        kwargs = kwargs or {}
        other = _OTHERS.get(func)
        return func(*args, **kwargs) if other is None else other(*args, **kwargs)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    axes = [axis for axis in range(v.dim()) if axis != dim] if dim != -1 else list(range(v.dim()))
    scaled: Tensor = v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
    return scaled


def _dense(func: Callable[..., Any], name: str, place: int) -> Callable[..., Any]:
    """The function with its flag for sparse gradients, a keyword or the argument at `place`, off."""

    def without(*args: Any, **kwargs: Any) -> Any:
        args = args[:place] + (False,) * (len(args) > place) + args[place + 1 :]
        return func(*args, **{key: value for key, value in kwargs.items() if key != name})

    return without


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """F.embedding_bag by index_add and gather, after it has run itself to check its arguments."""
    torchs: Tensor = F.embedding_bag(
        *(input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, False),
        *(per_sample_weights, include_last_offset, padding_idx),
    )
    if scale_grad_by_freq:
        return torchs
    count, entries = torchs.shape[0], input.reshape(-1)
    if offsets is None:  # rows of a matrix: torch has checked that it is one
        bags = torch.arange(count, device=input.device).repeat_interleave(input.shape[1])
    else:
        bags = (
            torch.searchsorted(
                offsets[:count].contiguous(), torch.arange(len(entries), device=input.device), right=True
            )
            - 1
        )
    if padding_idx is not None:
        counted = entries != padding_idx % weight.shape[0]
        entries, bags = entries[counted], bags[counted]
    rows = F.embedding(entries, weight)
    if mode == "max":
        return _largest(rows, bags, torchs)
    if per_sample_weights is not None:
        factors = per_sample_weights.reshape(-1)
        rows = rows * (factors if padding_idx is None else factors[counted]).unsqueeze(1)
    total = torch.zeros_like(torchs).index_add(0, bags, rows)
    return total if mode == "sum" else total / torch.bincount(bags, minlength=count).clamp(min=1).unsqueeze(1)


def _largest(rows: Tensor, bags: Tensor, largest: Tensor) -> Tensor:
    """The largest entries of each bag, taken from its first row that has them, as torch does."""
    number = torch.arange(len(rows), device=rows.device).unsqueeze(1).expand_as(rows)
    index = bags.unsqueeze(1).expand_as(rows)
    there = torch.where(rows.detach() == largest.detach()[bags], number, len(rows))
    first = torch.full_like(largest, len(rows), dtype=torch.long).scatter_reduce(0, index, there, "amin")
    return torch.cat([rows, torch.zeros_like(largest[:1])]).gather(0, first)


_OTHERS: dict[Any, Callable[..., Any]] = {
    torch._weight_norm: _weight_norm,
    F.embedding: _dense(F.embedding, "sparse", 6),
    torch.embedding: _dense(torch.embedding, "sparse", 4),
    F.embedding_bag: _embedding_bag,
    torch.gather: _dense(torch.gather, "sparse_grad", 3),
    Tensor.gather: _dense(Tensor.gather, "sparse_grad", 3),
}
