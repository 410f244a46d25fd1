"""One small matrix per eigenvalue: a linear rule as a dynamical system, read off the rule's own step."""

import numpy as np
import torch
from torch import Tensor

from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.rules import LinearRule, Rule, State


def linear(rule: Rule) -> LinearRule:
    """Return the rule if it can be linearised; otherwise raise Unsupported, saying why and what to do instead.

    Raises InvalidValue for what is no rule at all.
    """
    if isinstance(rule, LinearRule):
        return rule
    if not isinstance(rule, Rule):
        given = f"the class {rule.__name__}" if isinstance(rule, type) else repr(type(rule).__name__)
        raise InvalidValue(
            f"{given} is no rule; give one such as eigenstep.HeavyBall(lr=0.1), or the one that a torch optimizer "
            "runs, eigenstep.rule_of(optimizer)[0].rule"
        )
    raise Unsupported(
        f"{type(rule).__name__} has no exact limit: its step is not linear in the gradient once its units are known "
        "(it keeps signs, or mixes coordinates); simulate it, or measure its critical sharpness"
    )


def iteration_matrix(rule: Rule, eigenvalues: Tensor, t: int | None = None) -> Tensor:
    """Return the matrix that one update applies to (stored point, buffers) along each eigenvector.

    M[..., i, :, :] maps the state's component along eigenvector i at update t - 1 to that at t; t=None takes the
    late coefficients. Shapes: eigenvalues (..., n), result (B..., n, d, d) with B the rule's lanes and d - 1 its
    buffers. The eigenvalues are the Hessian's for a rule that does not adapt (its weight decay is added here) and
    those of P^-1/2 (H + wI) P^-1/2 for one that does. It is found by probing `couple` and `move` with basis
    vectors, hence exact, and affine in the eigenvalue.

    Raises Unsupported for a rule that is not linear.

    >>> from eigenstep.rules import HeavyBall
    >>> iteration_matrix(HeavyBall(lr=0.5, momentum=0.5), torch.tensor([1.0]))
    tensor([[[ 0.5000,  0.5000],
             [-0.5000,  0.5000]]])
    """
    rule = linear(rule)
    shape = np.broadcast_shapes((*rule.lanes, 1), eigenvalues.shape)
    spread = eigenvalues.expand(shape)
    rule = rule.columns(spread)
    columns = []
    for x, buffers in _basis(rule, spread):
        grad = spread * x if rule.adaptive else rule.couple(x, spread * x)
        x, buffers = rule.move(x, grad, torch.ones_like(x), buffers, rule.coefficients(t))
        columns.append(torch.stack([x, *buffers], dim=-1))
    return torch.stack(columns, dim=-1)


def observation(rule: Rule, eigenvalues: Tensor, point: str = "iterate") -> Tensor:
    """Return the row (B..., n, d) that reads a point from (stored point, buffers): the iterate, or what is stored."""
    rule = linear(rule)
    shape = np.broadcast_shapes((*rule.lanes, 1), eigenvalues.shape)
    spread = eigenvalues.expand(shape)
    rule = rule.columns(spread)
    seen = [rule.iterate(x, State(buffers)) if point == "iterate" else x for x, buffers in _basis(rule, spread)]
    return torch.stack(seen, dim=-1)


def spectral_radius(matrix: Tensor) -> Tensor:
    """Return the largest modulus of the eigenvalues of each (d, d) matrix; in closed form for d <= 2.

    >>> spectral_radius(torch.tensor([[0.0, 1.0], [-0.25, 0.0]]))
    tensor(0.5000)
    """
    if matrix.shape[-1] == 1:
        return matrix.squeeze(-1).squeeze(-1).abs()
    if matrix.shape[-1] == 2:
        (a, b), (c, d) = _entries(matrix)
        discriminant = (a - d) ** 2 + 4 * b * c
        real = ((a + d).abs() + discriminant.clamp(min=0).sqrt()) / 2
        return torch.where(discriminant < 0, (a * d - b * c).clamp(min=0).sqrt(), real)
    moduli: Tensor = torch.linalg.eigvals(matrix).abs()
    return moduli.amax(-1)


def is_stable(matrix: Tensor) -> Tensor:
    """Tell whether each spectral radius is below 1; for d <= 2 by Jury's conditions, which are exact at the edge.

    d = 2: det(I - M) > 0, det(I + M) > 0, det M < 1. So a flat direction, or lr exactly at its limit, is not stable.
    """
    if matrix.shape[-1] == 1:
        factor = matrix.squeeze(-1).squeeze(-1)
        return (1 - factor > 0) & (1 + factor > 0)
    if matrix.shape[-1] == 2:
        (a, b), (c, d) = _entries(matrix)
        return ((1 - a) * (1 - d) - b * c > 0) & ((1 + a) * (1 + d) - b * c > 0) & (a * d - b * c < 1)
    return spectral_radius(matrix).lt(1)


def is_oscillating(matrix: Tensor) -> Tensor:
    """Tell whether the dominant eigenvalue of each matrix is complex or negative, so that the error changes sign."""
    if matrix.shape[-1] == 1:
        return matrix.squeeze(-1).squeeze(-1) < 0
    values: Tensor = torch.linalg.eigvals(matrix)
    dominant = values.gather(-1, values.abs().argmax(-1, keepdim=True)).squeeze(-1)
    turning: Tensor = dominant.imag.abs() > 1e-12 * dominant.abs()
    return turning | (dominant.real < 0)


def radii(rule: Rule, eigenvalues: Tensor) -> Tensor:
    """Return the spectral radius per lane and eigenvalue, (B..., n), at the late coefficients.

    >>> from eigenstep.rules import GradientDescent
    >>> radii(GradientDescent(lr=[0.5, 1.0]), torch.tensor([1.0, 2.0]))
    tensor([[0.5000, 0.0000],
            [0.0000, 1.0000]])
    """
    return spectral_radius(iteration_matrix(rule, eigenvalues))


def _basis(rule: LinearRule, like: Tensor) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Every state in which the stored point, or one buffer, is 1 and the rest 0."""
    one, zero, size = torch.ones_like(like), torch.zeros_like(like), 1 + len(rule.buffer_names)
    rows = [[one if i == j else zero for j in range(size)] for i in range(size)]
    return [(row[0], tuple(row[1:])) for row in rows]


def _entries(matrix: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (matrix[..., 0, 0], matrix[..., 0, 1]), (matrix[..., 1, 0], matrix[..., 1, 1])
