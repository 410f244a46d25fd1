"""Whether a loss is the mean over its batch's samples: seen on parts of two batches, and on these parts together."""

import copy
import itertools
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from eigenstep.objective.data.batch import part, samples
from eigenstep.objective.graph import leaves_of

if TYPE_CHECKING:
    from eigenstep.objective.objective import Objective

DECLARED = "reduction='sum' says that a batch's loss is its sum, but it is the mean over its samples"
PAIRS = 16  # of neighbouring batches that are compared at most, evenly spread: two forward passes each
ROUNDING = 1e3  # units of rounding by which means may differ: sums of thousands of terms in another order


def not_a_mean(objective: "Objective") -> str | None:
    """Return what to say where batches are weighted by samples, but the loss is not the mean over them; None if it is.

    L(A and B) = (a L(A) + b L(B)) / (a + b) for parts A, B of a and b samples holds for such a mean, and for a penalty
    on the weights beside it. Nothing is said where batches cannot be cut or joined, where their statistics act, or
    where the parts take different routes through the model.
    """
    if not _matters(objective):
        return None
    last = len(objective.weights) - 1
    numbers = {round(i * last / PAIRS) for i in range(PAIRS + 1)}
    chosen = (batch for i, batch in enumerate(objective.batches) if i in numbers)
    first = next(chosen)
    for one, other in itertools.chain([(first, first)], itertools.pairwise(itertools.chain([first], chosen))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of shapes that the loss does not usually see
                note = _compare(objective, one, other)
        except Exception:  # the user's code, on a batch that they did not make: nothing is known
            continue
        if note is not None:
            return note
    return None


def _matters(objective: "Objective") -> bool:
    """Whether batches are weighted by samples for want of another word, and a part of a batch stands for itself."""
    told = any(given is not None for given in objective.batches.given.values())
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in objective.model.modules())
    several = len(objective.weights) > 1
    return several and not told and not norms and objective.dropout == "off"


def _compare(objective: "Objective", one: Any, other: Any) -> str | None:
    if one is other and samples(one) < 2:
        return None
    a, b = max(samples(one) // 2, 1), samples(other) - samples(other) // 2
    first, second = part(one, slice(None, a)), part(other, slice(samples(other) - b, None))
    both = _joined(first, second)
    if a == 0 or samples(both) != a + b:
        return None
    losses = [objective.batch_loss(0, batch) for batch in (first, second, both)]
    if any(loss.numel() != 1 for loss in losses):
        return None
    if len({frozenset(map(id, leaves_of(loss))) for loss in losses}) > 1:
        return None
    x, y, z = (float(loss.detach()) for loss in losses)
    if not math.isfinite(x + y):  # as where all labels of a part are ignored: a mean over samples has a value
        return _said("a part of a batch has no loss of its own")
    if not math.isfinite(z):
        return None
    slack = ROUNDING * _epsilon(objective, losses[0].dtype) * max(abs(x), abs(y), abs(z))
    mean = (a * x + b * y) / (a + b)
    if objective.reduction == "sum":
        return None if abs(z - mean) > slack else f"{DECLARED}; leave reduction='sum' out"
    if abs(z - mean) <= slack:
        return None
    if abs(z - (x + y)) <= slack:
        if len(set(objective.batches.counts)) == 1:
            return None  # equal batches weigh alike either way
        return (
            "the loss is a sum over its batch, but batches are weighted by their samples; give weight=1, if each "
            "batch is one update, or reduction='sum' for the sum over all data"
        )
    return _said(f"{x:.4g} and {y:.4g} on two parts give {z:.4g} together, not {mean:.4g}")


def _said(seen: str) -> str:
    return (
        f"the loss is not the mean over a batch's samples, by which batches are weighted here ({seen}); give weight=, "
        "a function of the batch: the labels that count, its class weights, or 1 where all batches count alike"
    )


def _epsilon(objective: "Objective", dtype: torch.dtype) -> float:
    """The coarsest rounding in the way."""
    kinds = {dtype, *(p.dtype for p in objective.model.parameters() if p.dtype.is_floating_point)}
    if torch.is_autocast_enabled(objective.device.type):
        kinds.add(torch.get_autocast_dtype(objective.device.type))
    return max(torch.finfo(kind).eps for kind in kinds)


def _joined(one: Any, other: Any) -> Any:
    """Two parts of the same build as one; an error where they do not fit."""
    if isinstance(one, Tensor):
        return torch.cat([one, other])
    if isinstance(one, np.ndarray):
        return np.concatenate([one, other])
    if isinstance(one, Mapping):
        both: Any = copy.copy(one)
        for key in one:
            both[key] = _joined(one[key], other[key])
        return both
    if isinstance(one, (list, tuple)):
        values = [_joined(a, b) for a, b in zip(one, other, strict=True)]
        return type(one)(*values) if hasattr(one, "_fields") else type(one)(values)
    if one != other:
        raise TypeError("parts differ in what is not a tensor")
    return one
