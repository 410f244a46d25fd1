"""Parameters without any gradient: until the first updates have moved the others, or for good."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eigenstep.curvature import Measurement, measure
from eigenstep.curvature.lanczos import Which
from eigenstep.curvature.operators import vectors as vec
from eigenstep.objective import Objective
from eigenstep.plain import key

DOWNWARDS = 1e-2  # of the largest eigenvalue; below it negative curvature is noise of every trained network
DEAD_FROM = 0.5  # of the coordinates
_LOOK = 1e-3  # of the weights' length: what a few first updates move, and far above rounding
_PRODUCTS = 60  # for the ends of that part's spectrum, to a tenth


@dataclass(frozen=True)
class ZeroGradient:
    """Parameters without any gradient: their share of the coordinates, and what curvature there is in those.

    revives: the part of the share that has a gradient once the others have moved a little. flat, downwards: whether the
    rest has no curvature at all, or curves downwards.
    """

    share: float = 0.0
    revives: float = field(default=0.0, metadata=key("wakes"))
    flat: bool = False
    downwards: bool = False


def zero_gradient_of(objective: Objective, gradient: Tensor, seed: int) -> tuple[ZeroGradient, Measurement | None]:
    """Return the share of coordinates without a gradient, what part soon gets one, and the curvature of the rest.

    A zero gradient at the start is no verdict: LoRA's A while B = 0, a branch behind a gate at zero and all that feeds
    a zero-initialised layer come alive once the others have moved. So the others take a short step downhill, on copies,
    and the gradient is looked at again, until a look finds no new gradient. Dead units stay as they are.
    """
    names = zero_gradient_names(objective, gradient)
    share = without = share_of(objective, names)
    there, moved = gradient, torch.zeros_like(gradient)
    reach = _LOOK * (vec.norm(objective.join(objective.params)) or 1.0)
    while without >= DEAD_FROM and (length := vec.norm(there)) > 0:
        moved = moved - there * (reach / length)
        there = objective.gradient(objective.at(moved))
        names = [name for name in zero_gradient_names(objective, there) if name in names]
        if (now := share_of(objective, names)) >= without:
            break
        without = now
    if without < DEAD_FROM:
        return ZeroGradient(share, revives=share - without), None
    part = objective.subset(names)
    which: Which = "ends" if part.size > 1 else "largest"
    found = measure(part, which=which, quick=True, tol=0.1, seed=seed, max_products=_PRODUCTS)
    top, bottom = float(found.values.max()), float(found.values.min())
    size = max(abs(top), abs(bottom))
    return ZeroGradient(share, share - without, flat=size == 0, downwards=bottom < -DOWNWARDS * size), found


def zero_gradient_names(objective: Objective, gradient: Tensor) -> list[str]:
    """The parameters whose gradient is zero in every entry."""
    return [name for name, part in objective.named(gradient).items() if not bool(part.any())]


def share_of(objective: Objective, names: Collection[str]) -> float:
    """The share of all coordinates that lies in these parameters."""
    pairs = zip(objective.names, objective.params, strict=True)
    return sum(p.numel() for name, p in pairs if name in names) / objective.size
