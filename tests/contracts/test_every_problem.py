"""Every problem: gradients and Hessians of its loss by autograd and by differences, batches, minima, precision."""

import math
from collections.abc import Callable

import pytest
import torch
from dense import hessian
from torch import Tensor

from eigenstep.errors import InvalidValue
from eigenstep.problems import PROBLEMS, DoubleWell, Problem, Quadratic, article, problem_named

EXTRA: dict[str, Callable[[], Problem]] = {
    "rotated": lambda: article().rotated(angle=math.pi / 4),
    "many": lambda: Quadratic(torch.logspace(-2, 2, 20), torch.linspace(-1, 1, 20), seed=3),
    "double-well-2": lambda: DoubleWell(flat=2.0, sharp=30.0, dimension=2, transverse=3.0),
}
NAMES = [*PROBLEMS, *EXTRA]


def made(name: str) -> Problem:
    return EXTRA[name]() if name in EXTRA else problem_named(name)


def near(problem: Problem, count: int = 7, spread: float = 0.3) -> Tensor:
    """Points around the start and the minima."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.cat([problem.start.unsqueeze(0), problem.minima])
    noise = torch.randn(count, problem.dimension, generator=generator, dtype=torch.float64)
    return centres[torch.arange(count) % len(centres)] + spread * noise


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and float((a - b).norm()) <= tolerance * (1 + float(b.norm()))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_and_hessian_are_those_of_the_loss(name: str) -> None:
    problem = made(name)
    for x in near(problem, 2 if problem.dimension > 100 else 7):
        point = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(problem.loss(point), point)
        assert close(problem.gradient(x), gradient, 1e-12)
        assert close(problem.hessian(x), hessian(lambda point=point: problem.loss(point), [point]), 1e-11)
        assert torch.equal(problem.hessian(x), problem.hessian(x).T)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    """An independent channel: no autograd, the losses alone. The error of a central difference is of order h^2."""
    problem, h = made(name), 1e-5
    x = near(problem, 1)[0]
    for i in range(0, problem.dimension, max(1, problem.dimension // 10)):
        e = torch.zeros_like(x)
        e[i] = h
        slope = (problem.loss(x + e) - problem.loss(x - e)) / (2 * h)
        assert abs(float(slope - problem.gradient(x)[i])) < 1e-6 * (1 + float(problem.gradient(x).norm()))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_points_one_by_one(name: str) -> None:
    problem = made(name)
    x = near(problem, 6).reshape(2, 3, -1)
    losses, gradients = problem.loss_and_gradient(x)
    assert losses.shape == (2, 3) and gradients.shape == x.shape
    assert close(problem.loss(x), losses, 1e-14) and torch.equal(problem.gradient(x), gradients)
    assert problem.distance(x).shape == (2, 3)
    for i in range(2):
        for j in range(3):
            loss, gradient = problem.loss_and_gradient(x[i, j])
            assert loss.shape == () and close(loss, losses[i, j], 1e-13) and close(gradient, gradients[i, j], 1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_minima_have_no_gradient_and_no_negative_curvature(name: str) -> None:
    problem = made(name)
    assert torch.equal(problem.minimum, problem.minima[0])
    losses = problem.loss(problem.minima)
    for x in problem.minima:
        assert float(problem.gradient(x).norm()) <= 1e-8
        assert float(torch.linalg.eigvalsh(problem.hessian(x)).min()) > 0
        assert float(problem.distance(x)) == 0
    assert float(losses[0]) <= float(losses.min()) + 1e-15
    assert float(problem.loss(problem.start)) > float(losses[0])


@pytest.mark.parametrize("name", NAMES)
def test_points_set_the_precision(name: str) -> None:
    problem = made(name)
    assert problem.start.dtype == problem.minima.dtype == torch.float64
    x = near(problem, 4)
    single = problem.loss_and_gradient(x.float())
    assert all(
        part.dtype == torch.float32 for part in (*single, problem.hessian(x[0].float()), problem.loss(x.float()))
    )
    assert problem.distance(x.float()).dtype == torch.float32
    assert all(
        float((s - d).norm()) < 1e-4 * (1 + float(d.norm()))
        for s, d in zip(single, problem.loss_and_gradient(x), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_one_point_is_needed_for_a_hessian(name: str) -> None:
    problem = made(name)
    with pytest.raises(InvalidValue, match="one point"):
        problem.hessian(torch.zeros(3, problem.dimension))
