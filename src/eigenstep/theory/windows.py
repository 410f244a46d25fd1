"""Narrow windows of lr in which the error settles one update sooner, found by a margin that varies continuously."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from eigenstep.rules import LinearRule
from eigenstep.theory.linear import iteration_matrix, linear, observation
from eigenstep.theory.propagate import flow

# A window is looked for on a grid this fine, then in the grid's lowest dips by zooming 16-fold each round.
_GRID, _DIPS, _ROUNDS = 1025, 16, 4
_WORK = 2e7  # lanes times eigenvalues times updates looked at, at most: about a second; a coarser grid for more
_EARLY = 64  # a rule whose coefficients change for longer than this is left to the search by counts


def sooner(
    rule: LinearRule,
    eigenvalues: Tensor,
    error: Tensor,
    lrs: tuple[float, float],
    begin: tuple[int, float],
    settled: Callable[[float], float],
    *,
    loss: float | None,
    distance: float | None,
    point: str,
) -> tuple[int, float, int]:
    """Return the fewest updates found, their lr, and how many lrs were tried, from `begin` (updates, lr) on.

    The count jumps, so that a window between two lrs of a grid does not show in it; the largest error after update N,
    as a multiple of the tolerance, is continuous in lr: its dips do show, and where one falls to 1 the count is N or
    less. `settled` counts exactly, and has the last word.
    """
    steps, lr = begin
    tried, n = 0, len(eigenvalues)
    if len(flow(linear(rule.replace(lr=lr)), eigenvalues, horizon=_EARLY + 1).early) > _EARLY:
        return steps, lr, tried
    while steps > 1:
        ahead = min(steps + 16, 512)
        size = int(min(max(_WORK / (n * ahead), 65), _GRID))

        def excess(lanes: Tensor, after: int = steps - 1, ahead: int = ahead) -> Tensor:
            found = _later(rule, eigenvalues, error, lanes.flatten(), after, ahead, loss, distance, point)
            return found.reshape(lanes.shape)

        grid = torch.linspace(*lrs, size + 2, dtype=torch.float64)[1:-1]
        height = excess(grid)
        padded = torch.nn.functional.pad(height, (1, 1), value=math.inf)
        dips = (height <= padded[:-2]) & (height <= padded[2:])
        centre = grid[height.masked_fill(~dips, math.inf).argsort()[:_DIPS]]
        half = grid[1] - grid[0]
        for _ in range(_ROUNDS):
            lanes = centre.unsqueeze(-1) + half * torch.linspace(-1, 1, 33, dtype=torch.float64)
            lanes = lanes.clamp(*lrs)
            height = excess(lanes)
            tried += lanes.numel()
            centre = lanes.gather(-1, height.argmin(-1, keepdim=True)).squeeze(-1)
            half = half / 16
        tried += size
        best = float(centre[height.amin(-1).argmin()])
        if float(height.min()) > 0 or not (count := settled(best)) < steps:
            break
        steps, lr = int(count), best
    return steps, lr, tried


def _later(
    rule: LinearRule,
    eigenvalues: Tensor,
    error: Tensor,
    lr: Tensor,
    after: int,
    ahead: int,
    loss: float | None,
    distance: float | None,
    point: str,
) -> Tensor:
    """The log of the largest error in updates after ... after + ahead, as a multiple of the tolerance, per lr."""
    lanes = linear(rule.replace(lr=lr))
    late, see = iteration_matrix(lanes, eigenvalues), observation(lanes, eigenvalues, point)
    state = torch.zeros(*late.shape[:-1], dtype=torch.float64)
    state[..., 0] = error
    early = len(flow(linear(rule.replace(lr=float(lr[0]))), eigenvalues, horizon=_EARLY).early)
    for t in range(1, min(early, after) + 1):
        state = _moved(iteration_matrix(lanes, eigenvalues, t), state)
    state = _moved(torch.linalg.matrix_power(late, max(after - early, 0)), state)
    worst = torch.full_like(lr, -math.inf)
    for t in range(after, after + ahead + 1):
        squared = (see * state).sum(-1).square()
        for limit, weight in ((loss, eigenvalues / 2), (None if distance is None else distance**2, 1.0)):
            if limit is not None:
                worst = torch.maximum(worst, ((weight * squared).sum(-1) / limit).log())
        state = _moved(iteration_matrix(lanes, eigenvalues, t + 1) if t < early else late, state)
    return worst.nan_to_num(nan=math.inf)


def _moved(matrix: Tensor, state: Tensor) -> Tensor:
    return torch.matmul(matrix, state.unsqueeze(-1)).squeeze(-1)
