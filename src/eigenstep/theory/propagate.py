"""Exact propagation of a linear rule along each eigenvector: error curves, counts of updates, transient peaks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.rules import LinearRule
from eigenstep.theory.linear import iteration_matrix, observation, spectral_radius

_BLOCK = 256  # updates evaluated at once, to begin with; an eighth of those done, later
_TOLD = 1e-9  # a spectral radius nearer to 1 than this is not told apart from 1: rounding in the bound below
_ROOM = 1 << 20  # numbers held for a block at most: 8 MB
_LOST = 1e12  # growth of the loss after which an unstable run is not waited for any longer


@dataclass(frozen=True)
class Flow:
    """How the component of the error along each eigenvector moves: s <- M s with s = (stored point, buffers, 1).

    The point is written relative to where weight decay pulls, so that the rule's own step applies; `offset` (n,) is
    that place relative to the minimum. early: matrices (n, d, d) of the updates before the coefficients are late;
    late: (n, d, d). see: (n, d), reads the error from the state.
    """

    early: tuple[Tensor, ...]
    late: Tensor
    see: Tensor
    offset: Tensor

    def begin(self, start: Tensor) -> Tensor:
        """Return the state (n, d) for error components `start` (n,) and empty buffers."""
        state = torch.zeros(*start.shape, self.late.shape[-1], dtype=torch.float64)
        state[..., 0], state[..., -1] = start - self.offset, 1.0
        return state

    def blocks(self, start: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (errors (k, n) at the next k updates, state after them), for ever; update 0 is not included."""
        state = self.begin(start)
        for matrix in self.early:
            state = _apply(matrix, state)
            yield (self.see * state).sum(-1).unsqueeze(0), state
        growth = float(spectral_radius(self.late[..., :-1, :-1]).max())
        if math.isnan(growth):
            raise InvalidValue("lr times an eigenvalue leaves the range of float64; take smaller ones")
        size = _BLOCK if growth <= 1 else max(1, min(_BLOCK, int(100 / math.log(growth))))
        rows, matrix = _powers(self.see, self.late, size)
        done = 0
        while True:
            errors = (rows * state).sum(-1)
            state = _apply(matrix, state)
            yield errors, state
            done += len(rows)
            if growth <= 1 and 8 * len(rows) <= done and 2 * rows.numel() <= _ROOM:
                rows, matrix = torch.cat([rows, _row(rows, matrix)]), matrix @ matrix

    def curve(self, start: Tensor, steps: int) -> Tensor:
        """Return the error components (steps + 1, n) from update 0 on."""
        parts = [(self.see * self.begin(start)).sum(-1).unsqueeze(0)]
        for errors, _ in self.blocks(start):
            parts.append(errors)
            if sum(map(len, parts)) > steps:
                break
        return torch.cat(parts)[: steps + 1]


def flow(
    rule: LinearRule,
    eigenvalues: Tensor,
    *,
    origin: Tensor | None = None,
    point: str = "iterate",
    horizon: int = 10_000,
) -> Flow:
    """Set up the exact propagation of a rule that does not adapt, on eigenvalues (n,), from rest.

    Without `origin` the error is measured from the fixed point that weight decay leaves, and moves linearly.
    With it, from the loss's own minimum: origin (n,) are the components of (zero parameters - minimum), the place
    that decay draws towards. Coefficients that still change after `horizon` updates are taken as late from there.
    """
    offset = torch.zeros_like(eigenvalues) if origin is None else origin
    slope = (
        eigenvalues * offset
    )  # the gradient at the point that decay draws towards: the constant that drives the system

    def update(t: int | None) -> Tensor:
        return _affine(iteration_matrix(rule, eigenvalues, t), _drive(rule, slope, t))

    early: list[Tensor] = []
    while len(early) < horizon and not _same(rule.coefficients(len(early) + 1), rule.coefficients(None)):
        early.append(update(len(early) + 1))
    see = torch.cat([observation(rule, eigenvalues, point), offset.unsqueeze(-1)], dim=-1)
    return Flow(tuple(early), update(None), see, offset)


@dataclass(frozen=True)
class Counts:
    """Numbers of updates; None where there is none, and then `reason` says why."""

    first: int | None
    settled: int | None
    reason: str = ""


def count(
    moved: Flow, eigenvalues: Tensor, start: Tensor, *, loss: float | None, distance: float | None, within: int
) -> Counts:
    """Count the updates to a loss 1/2 sum lambda e^2 and (or) a distance |e| at or below the tolerances.

    first: of the first update at which it holds. settled: of the first from which it holds for ever, found by a bound
    on all later errors, sum over t of e_t^2 = s' P s with M' P M - P + see' see = 0 (discrete Lyapunov equation).
    """
    weights = torch.stack([eigenvalues / 2, torch.ones_like(eigenvalues)])
    limits = torch.tensor([math.inf if loss is None else loss, math.inf if distance is None else distance**2]).double()
    state, start_values = moved.begin(start), _measured(moved.curve(start, 0), weights)
    slowest = float(spectral_radius(moved.late[..., :-1, :-1]).max())
    ahead = _Bound(moved) if slowest < 1 - _TOLD else None
    above = (start_values > limits).any(-1)
    first = None if bool(above[0]) else 0
    last_above = 0 if bool(above[0]) else -1
    done = 0
    for errors, state in moved.blocks(start):
        values = _measured(errors, weights)
        above = (values > limits).any(-1)
        if first is None and not bool(above.all()):
            first = done + 1 + int(above.int().argmin())
        if bool(above.any()):
            last_above = done + 1 + int(above.nonzero().max())
        done += len(errors)
        if ahead is not None:
            least, most = ahead(state)
            if bool((_measured(most, weights.abs()) <= limits).all()):
                return Counts(first, last_above + 1)
            if bool((eigenvalues >= 0).all()) and bool((_measured(least, weights) > limits).any()):
                return Counts(first, None, "weight decay holds the error above the tolerance for good")
        if ahead is None and (first is not None or not bool((values[-1] <= _LOST * start_values[0].abs() + 1).all())):
            reason = "the rule is not stable on this spectrum, so the error does not stay below"
            if slowest < 1:
                reason = f"at a rate of 1 - {1 - slowest:.1g} rounding hides whether the error stays below"
            return Counts(first, None, reason)
        if done >= within:
            break
    return Counts(first, None, f"not within {done:,} updates; within= allows more")


def peak(moved: Flow) -> float:
    """Return the largest growth of any one component, max over i and t of |e_i(t)| / |e_i(0)|, from rest; at least 1.

    Exact for the first 2,048 updates, then every 2^k-th pair of updates of the k-th octave. Needs a stable rule
    and no offset.
    """
    start = torch.ones_like(moved.offset)
    state, largest, size = moved.begin(start), torch.ones_like(start), 1024
    for matrix in moved.early:
        state = _apply(matrix, state)
        largest = torch.maximum(largest, (moved.see * state).sum(-1).abs())
    slowest = float(spectral_radius(moved.late[..., :-1, :-1]).max())
    horizon = math.inf if slowest >= 1 else 40 / -math.log(max(slowest, 1e-300))
    stride, see, covered = moved.late, moved.see, 0
    pair = torch.stack([see, _row(see, moved.late)])  # an update and its neighbour, for modes that alternate
    while covered < horizon and covered < 2**40:
        rows, jump = zip(*(_powers(row, stride, size) for row in pair), strict=True)
        for block in rows:
            largest = torch.maximum(largest, (block * state).sum(-1).abs().amax(0))
        state, covered = _apply(jump[0], state), 2 * covered if covered else size
        if covered > size:
            stride = stride @ stride
    return float(largest.max())


class _Bound:
    """For each component, the least and the largest |error| that any later update can show, from the state now."""

    def __init__(self, moved: Flow) -> None:
        self._late, see = moved.late[..., :-1, :-1], moved.see[..., :-1]
        size = see.shape[-1]
        transposed = self._late.mT.contiguous()
        kron = torch.einsum("nij,nkl->nikjl", transposed, transposed).reshape(-1, size**2, size**2)
        outer = (see.unsqueeze(-1) * see.unsqueeze(-2)).reshape(-1, size**2, 1)
        self._gram = torch.linalg.solve(torch.eye(size**2).double() - kron, outer).reshape(-1, size, size)
        drive = moved.late[..., :-1, -1:]
        self._rest: Tensor = torch.linalg.solve(torch.eye(size).double() - self._late, drive).squeeze(-1)
        self._limit: Tensor = ((see * self._rest).sum(-1) + moved.see[..., -1]).abs()

    def __call__(self, state: Tensor) -> tuple[Tensor, Tensor]:
        deviation = state[..., :-1] - self._rest
        squared = (_apply(self._gram, deviation) * deviation).sum(-1)
        reach = 1.001 * squared.clamp(min=0).sqrt()  # a little more than rounding can take off
        return (self._limit - reach).clamp(min=0).unsqueeze(0), (self._limit + reach).unsqueeze(0)


def _measured(errors: Tensor, weights: Tensor) -> Tensor:
    """(k, n) errors to (k, 2): the loss and the squared distance."""
    return torch.matmul(errors.square(), weights.T)


def _apply(matrix: Tensor, state: Tensor) -> Tensor:
    return torch.matmul(matrix, state.unsqueeze(-1)).squeeze(-1)


def _row(row: Tensor, matrix: Tensor) -> Tensor:
    return torch.matmul(row.unsqueeze(-2), matrix).squeeze(-2)


def _powers(row: Tensor, matrix: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rows row M^1 ... row M^size as (size, n, d), and M^size."""
    rows, power, have = _row(row, matrix).unsqueeze(0), matrix, 1
    while have < size:
        rows, power, have = torch.cat([rows, _row(rows, power)]), power @ power, have * 2
    return rows[:size], power if have == size else torch.linalg.matrix_power(matrix, size)


def _affine(matrix: Tensor, drive: Tensor) -> Tensor:
    """[[M, drive], [0, 1]], per eigenvalue."""
    bottom = torch.zeros(*drive.shape[:-1], 1, drive.shape[-1] + 1, dtype=torch.float64)
    bottom[..., -1] = 1.0
    return torch.cat([torch.cat([matrix, drive.unsqueeze(-1)], dim=-1), bottom], dim=-2)


def _drive(rule: LinearRule, gradient: Tensor, t: int | None) -> Tensor:
    """What a constant gradient (n,) adds to the state in one update, (n, d)."""
    zero = torch.zeros_like(gradient)
    buffers = tuple(zero for _ in rule.buffer_names)
    x, buffers = rule.columns(gradient).move(zero, gradient, torch.ones_like(zero), buffers, rule.coefficients(t))
    return torch.stack([x, *buffers], dim=-1)


def _same(a: tuple[float | Tensor, ...], b: tuple[float | Tensor, ...]) -> bool:
    return all(bool((torch.as_tensor(x) == torch.as_tensor(y)).all()) for x, y in zip(a, b, strict=True))


def components(name: str, value: object, like: Tensor) -> Tensor:
    """Return `value` as float64 components aligned with the eigenvalues; InvalidValue unless it is that."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(f"{name} must be {len(like)} numbers, one per eigenvalue ({error})") from error
    if tensor.shape != like.shape or not bool(tensor.isfinite().all()):
        raise InvalidValue(
            f"{name} must be {len(like)} finite numbers, one per eigenvalue and in the order of `.eigenvalues`; "
            f"it has shape {tuple(tensor.shape)}"
        )
    if not bool(((like * tensor.square()).sum() + tensor.square().sum()).isfinite()):
        raise InvalidValue(f"{name} is too large: its squares leave the range of float64; scale the problem down")
    return tensor


def refuse_tolerances(loss: Any, radius: Any) -> None:
    """Raise InvalidValue unless the tolerances are positive, and their squares numbers that float64 holds."""
    for name, tolerance in (("loss", loss), ("radius", radius)):
        if tolerance is not None and not (isinstance(tolerance, (int, float)) and 1e-150 < tolerance < 1e150):
            raise InvalidValue(f"{name}={tolerance} must be a finite, positive tolerance, between 1e-150 and 1e150")
