"""Every operator: linear, symmetric, the dense matrix's own products, restrict adjoint to lift, refusals in words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from dense import hessian
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

import eigenstep as es
from eigenstep.curvature.operators.ggn import GGNOperator
from eigenstep.curvature.operators.hessian import HessianOperator
from eigenstep.curvature.operators.operator import Operator, as_operator
from eigenstep.curvature.operators.preconditioned import ScaledOperator, unit_of

MATRIX = torch.tensor([[2.0, -1.0, 0.5], [-1.0, 3.0, 0.0], [0.5, 0.0, -4.0]], dtype=torch.float64)
LAMBDA, DECAY = 0.1, 0.3


class Problem:
    """A small network whose first input is always 0, so that an adaptive method leaves coordinates out."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.x, self.y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
        self.x[:, 0] = 0
        self.objective = es.Objective(self.model, self.loss, [(self.x[:5], self.y[:5]), (self.x[5:], self.y[5:])])
        self.adam = torch.optim.Adam(self.model.parameters(), lr=LAMBDA)
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=LAMBDA, weight_decay=DECAY)
        for optimizer in (self.adam, self.sgd):
            optimizer.zero_grad()
            self.loss(self.model, (self.x, self.y)).backward()
        self.adam.step()

    @staticmethod
    def loss(model: Any, batch: Any) -> Tensor:
        """The mean squared error, over all samples alike."""
        loss: Tensor = nn.functional.mse_loss(model(batch[0]), batch[1])
        return loss

    def dense(self) -> Tensor:
        """Its Hessian by double backward."""
        return hessian(lambda: self.loss(self.model, (self.x, self.y)), self.model.parameters())

    def gauss_newton(self) -> Tensor:
        """J' (2 / outputs) J, with the Jacobian row by row."""
        out = self.model(self.x).flatten()
        rows = [torch.autograd.grad(o, list(self.model.parameters()), retain_graph=True) for o in out]
        jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        return 2 / len(out) * jacobian.T @ jacobian

    def as_adam_sees_it(self) -> Tensor:
        """D H D on the coordinates that move, D = 1 / sqrt(P), P = sqrt(v / (1 - b2^t)) + eps by Adam's own formula."""
        v = torch.cat([self.adam.state[p]["exp_avg_sq"].flatten() for p in self.model.parameters()])
        moved = v > 0
        scale = 1 / ((v[moved] / (1 - 0.999)).sqrt() + 1e-8).sqrt()
        return scale[:, None] * self.dense()[moved][:, moved] * scale


def hessian_by(method: Any) -> Callable[[Problem], tuple[Operator, Tensor]]:
    return lambda p: (HessianOperator(p.objective, method), p.dense())


EVERY: dict[str, Callable[[Problem], tuple[Operator, Tensor]]] = {
    "dense": lambda p: (as_operator(MATRIX), MATRIX),
    "function": lambda p: (as_operator(lambda v: MATRIX @ v, 3), MATRIX),
    "SciPy's": lambda p: (as_operator(LinearOperator((3, 3), lambda v: MATRIX.numpy() @ v, dtype=np.float64)), MATRIX),
    **{f"hessian, {m}": hessian_by(m) for m in ("auto", "graph", "fresh", "linearize", "differences")},
    "ggn": lambda p: (GGNOperator(p.objective), p.gauss_newton()),
    "adam's": lambda p: (
        ScaledOperator(HessianOperator(p.objective), unit_of(p.objective, p.adam)),
        p.as_adam_sees_it(),
    ),
    "decayed": lambda p: (
        ScaledOperator(HessianOperator(p.objective), unit_of(p.objective, p.sgd)),
        p.dense() + DECAY * torch.eye(len(p.dense()), dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("name", EVERY)
def test_it_is_the_symmetric_matrix_that_it_stands_for(name: str) -> None:
    problem = Problem()
    operator, matrix = EVERY[name](problem)
    n = operator.size
    assert operator.shape == (n, n) == tuple(matrix.shape) and operator.dtype == torch.float64
    u, v = torch.randn(2, n, dtype=torch.float64)
    before = u.clone()
    tolerance = 1e-6 if name == "hessian, differences" else 1e-12
    near = lambda a, b: torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(matrix.norm()))  # noqa: E731
    with problem.objective.session():
        near(operator.matvec(u), matrix @ u)
        assert torch.equal(u, before)
        near(operator.matvec(2 * u - 3 * v), 2 * operator.matvec(u) - 3 * operator.matvec(v))
        near(u @ operator.matvec(v), v @ operator.matvec(u))
        near(operator @ torch.stack([u, v], dim=1), matrix @ torch.stack([u, v], dim=1))
        assert float((operator.matvec(u) - matrix @ u).norm()) <= 10 * operator.error(u) + 1e-11 * float(matrix.norm())


@pytest.mark.parametrize("name", EVERY)
def test_restrict_is_adjoint_to_lift_and_directions_have_unit_length(name: str) -> None:
    problem = Problem()
    operator, _ = EVERY[name](problem)
    with problem.objective.session():
        inside = torch.randn(2, operator.size, dtype=torch.float64)
        outside = torch.randn_like(operator.lift(inside))
        torch.testing.assert_close(
            (operator.restrict(outside) * inside).sum(-1), (outside * operator.lift(inside)).sum(-1)
        )
        assert torch.equal(operator.restrict(operator.lift(inside)), inside)
        rows = torch.nn.functional.normalize(inside, dim=-1)
        directions = operator.directions(rows)
        assert directions.shape == outside.shape
        torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, dtype=torch.float64))
    assert (operator.size < outside.shape[-1]) is (name == "adam's")


@pytest.mark.parametrize("name", EVERY)
def test_vectors_of_another_size_or_not_finite_are_refused(name: str) -> None:
    problem = Problem()
    operator, _ = EVERY[name](problem)
    n = operator.size
    with problem.objective.session():
        for shape in ((n + 1,), (n - 1,), (1, n), (n, 1), ()):
            with pytest.raises(es.InvalidValue, match=rf"shape \({n},\) is needed"):
                operator.matvec(torch.ones(shape, dtype=torch.float64))
        for value in (torch.nan, torch.inf, -torch.inf):
            vector = torch.ones(n, dtype=torch.float64)
            vector[-1] = value
            with pytest.raises(es.InvalidValue, match="not finite"):
                operator.matvec(vector)
        with pytest.raises(es.InvalidValue, match=rf"shape \({n},\) is needed"):
            operator @ torch.ones(n + 1, 2, dtype=torch.float64)


def test_no_operator_is_left_out() -> None:
    ours = {sub.__name__ for sub in Operator.__subclasses__() if sub.__module__.startswith("eigenstep")}
    assert ours == {type(make(Problem())[0]).__name__ for make in EVERY.values()}
