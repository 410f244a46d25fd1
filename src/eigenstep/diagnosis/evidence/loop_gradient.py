"""How the gradients that the user's own loop hands to its optimizer compare with the objective's."""

import math
from typing import Any

import torch
from torch import Tensor

from eigenstep.bridge.param_groups import params_of
from eigenstep.objective import restore, world
from eigenstep.objective.evaluation import usable
from eigenstep.rehearsal import Rehearsal

_ALIKE = 0.01  # relative: a smaller difference moves no limit by more than its tolerance
_PARALLEL = 0.999  # cosine: a multiple of the objective's, rounding aside
_SHRUNK = 0.5  # of the weights, for the second comparison: clipping gives another factor there, a scaled loss the same


def loop_factor(rehearsal: Rehearsal, lr: float) -> float | None:
    """Return what the loop multiplies the objective's gradient by, in the rehearsal's session.

    1 where they are equal within 1%, nan where they are no fixed multiple, None where the loop's were not seen: it
    takes no step at once, or computes them within one. Compared on two mini-batches, at the weights and at half of
    them, all on copies.
    """
    factors = [_factor(rehearsal, lr, number, shrink) for number, shrink in ((0, 1.0), (1, _SHRUNK))]
    if factors[0] is None:
        return None
    first, second = factors[0], factors[0] if factors[1] is None else factors[1]
    if not abs(second - first) <= _ALIKE * abs(first):
        return math.nan
    return 1.0 if abs(first - 1) <= _ALIKE else first


def _factor(rehearsal: Rehearsal, lr: float, number: int, shrink: float) -> float | None:
    """The factor on one mini-batch, the weights multiplied first; None where there is nothing to compare."""
    handed = _loops(rehearsal, lr, number, shrink)
    if handed is None:
        return None
    own = _objectives(rehearsal, lr, number, shrink)
    across, length = float(handed.norm()), float(own.norm())
    if not (across > 0 and length > 0):
        return None
    cosine = float(handed @ own) / (across * length)
    return math.copysign(across / length, cosine) if abs(cosine) > _PARALLEL else math.nan


def _loops(rehearsal: Rehearsal, lr: float, number: int, shrink: float) -> Tensor | None:
    """The gradient that the loop hands to its first step on a mini-batch."""
    model, optimizer = _copies(rehearsal, lr, shrink)
    seen: list[Tensor | None] = []
    hook = optimizer.register_step_pre_hook(lambda *_: None if seen else seen.append(_gradient(optimizer)))
    restore.seed_all(rehearsal.seed)
    try:
        rehearsal.take(model, optimizer, rehearsal.stream[number])
    finally:
        hook.remove()
    return seen[0] if seen else None


def _objectives(rehearsal: Rehearsal, lr: float, number: int, shrink: float) -> Tensor:
    """The objective's own gradient on the same mini-batch, with the same random numbers."""
    model, optimizer = _copies(rehearsal, lr, shrink)
    restore.seed_all(rehearsal.seed)
    with world.callers_device(), torch.enable_grad():
        rehearsal.objective.loss(model, usable(rehearsal.stream[number])).backward()
    found = _gradient(optimizer)
    return torch.zeros(1) if found is None else found


def _copies(rehearsal: Rehearsal, lr: float, shrink: float) -> tuple[Any, torch.optim.Optimizer]:
    """A model and its optimizer as a lane begins with them, the weights multiplied."""
    copies = rehearsal.copies(lr, rehearsal.schedule)
    with torch.no_grad():
        for p in params_of(copies[1]):
            p.mul_(shrink)
    return copies


def _gradient(optimizer: torch.optim.Optimizer) -> Tensor | None:
    """All that stands in `.grad`, as one vector; None where nothing does."""
    params = params_of(optimizer)
    if all(p.grad is None for p in params):
        return None
    flat = [(torch.zeros_like(p) if p.grad is None else p.grad.detach()).flatten().double().cpu() for p in params]
    return torch.cat(flat)
