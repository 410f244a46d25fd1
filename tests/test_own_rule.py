"""A rule that the user writes in about ten lines: trained with, analysed and simulated, beside loops of its own."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import eigenstep as es
from eigenstep.theory import iteration_matrix, radii

H = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)


@dataclass(frozen=True)
class QHM(es.LinearRule):
    """Quasi-hyperbolic momentum (Ma and Yarats 2018), as the README has it."""

    momentum: float = 0.9
    nu: float = 0.7
    name = "qhm"
    buffer_names = ("momentum_buffer",)

    def move(self, x, grad, unit, buffers, c):  # type: ignore[no-untyped-def]
        mean = torch.lerp(grad, buffers[0], self.momentum)
        return x - self.lr * ((1 - self.nu) * grad + self.nu * mean), (mean,)


@dataclass(frozen=True)
class Yogi(es.LinearRule):
    """Yogi (Zaheer et al. 2018) without bias correction: an adaptive rule of one's own."""

    b1: float = 0.9
    b2: float = 0.99
    name = "yogi"
    buffer_names = ("exp_avg",)
    scale_names = ("exp_avg_sq",)

    def accumulate(self, grad, scales):  # type: ignore[no-untyped-def]
        square = grad * grad
        return (scales[0] - (1 - self.b2) * torch.sign(scales[0] - square) * square,)

    def unit(self, scales, t):  # type: ignore[no-untyped-def]
        return scales[0].sqrt() + 1e-3

    def move(self, x, grad, unit, buffers, c):  # type: ignore[no-untyped-def]
        mean = self.b1 * buffers[0] + (1 - self.b1) * grad
        return x - self.lr * mean / unit, (mean,)


@dataclass(frozen=True)
class Normalised(es.Rule):
    """Gradient descent of unit length: not linear, and not coordinate by coordinate."""

    name = "normalised"

    def step(self, x, grad, state, t):  # type: ignore[no-untyped-def]
        return x - self.lr * grad / grad.norm(dim=-1, keepdim=True), state


def trained(rule: es.Rule, steps: int = 20) -> Tensor:
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = es.Optimizer([p], rule)
    for _ in range(steps):
        optimizer.zero_grad()
        (p @ H @ p / 2).backward()
        optimizer.step()
    (group,) = es.rule_of(optimizer)
    assert (group.rule, group.t) == (rule, steps)
    return p.detach()


def test_it_trains() -> None:
    x, m = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for _ in range(20):
        g = H @ x
        m = 0.9 * m + 0.1 * g
        x = x - 0.1 * (0.3 * g + 0.7 * m)
    assert torch.allclose(trained(QHM(lr=0.1)), x, rtol=1e-12, atol=0)
    x, m, v = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2).double(), torch.zeros(2).double()
    for _ in range(20):
        g = H @ x
        m, v = 0.9 * m + 0.1 * g, v - 0.01 * torch.sign(v - g**2) * g**2
        x = x - 0.05 * m / (v.sqrt() + 1e-3)
    assert torch.allclose(trained(Yogi(lr=0.05)), x, rtol=1e-12, atol=0)


def test_it_is_analysed() -> None:
    """QHM's trace 1 + b - h (1 - nu b), determinant b - h b (1 - nu), and so its edge 2 (1 + b) / (1 + b - 2 nu b)."""
    b, nu, h = 0.9, 0.7, 0.4
    (matrix,) = iteration_matrix(QHM(lr=0.1), torch.tensor([h / 0.1], dtype=torch.float64))
    assert float(matrix.trace()) == pytest.approx(1 + b - h * (1 - nu * b), rel=1e-12)
    assert float(torch.linalg.det(matrix)) == pytest.approx(b - h * b * (1 - nu), rel=1e-12)
    limit = 2 * (1 + b) / (1 + b - 2 * nu * b)
    assert es.max_stable_lr(QHM(), 100.0) == pytest.approx(limit / 100, rel=1e-12)
    assert es.max_stable_lr(Yogi(), 4.0) == pytest.approx(38 / 4, rel=1e-12)
    fate = es.predict(QHM(lr=0.01), es.Spectrum.from_eigenvalues([1.0, 100.0]), start=[1.0, 1.0], loss=1e-6)
    run = es.simulate(QHM(lr=0.01), es.Quadratic([1.0, 100.0]), loss=1e-6, settle=True, steps=5000)
    assert (fate.steps, fate.settled) == (run.steps, run.settled)
    best = es.tune(QHM(), es.Spectrum.from_eigenvalues([1.0, 100.0]), over=("lr", "momentum"))
    assert best.rate < float(radii(QHM(lr=0.01), torch.tensor([1.0, 100.0]).double()).max())


def test_it_is_simulated_with_lanes() -> None:
    limit = es.max_stable_lr(QHM(), 100.0)
    run = es.simulate(QHM(lr=[0.9 * limit, 1.1 * limit]), es.Quadratic([1.0, 100.0]), steps=2000, box=1e3)
    assert isinstance(run.left, Tensor)
    assert (run.left > 0).tolist() == [False, True]


def test_its_hyperparameters_are_checked_and_batched() -> None:
    with pytest.raises(es.UnknownName, match="did you mean 'momentum'"):
        QHM(momentun=0.9)  # type: ignore[call-arg]
    with pytest.raises(es.InvalidValue, match="momentum=1"):
        QHM(momentum=1.0)
    with pytest.raises(es.InvalidValue, match=r"nu=nan"):
        QHM(nu=math.nan)
    assert QHM(nu=[0.1, 0.2, 0.3]).lanes == (3,)  # type: ignore[arg-type]


def test_a_rule_that_is_not_linear_trains_and_is_refused_by_the_analysis() -> None:
    assert float(trained(Normalised(lr=0.01), 100).norm()) == pytest.approx(5**0.5 - 1.0, abs=0.1)
    with pytest.raises(es.Unsupported, match=r"Normalised has no exact limit.*simulate it"):
        es.max_stable_lr(Normalised(), 1.0)
