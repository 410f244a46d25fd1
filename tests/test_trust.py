"""How far the local quadratic is trusted: against the bend written out, on quadratics exactly, with momentum."""

import math

import pytest
import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.stability.quadratic_range import TOLERANCE, trusted


class Curve(nn.Module):
    """sum of w^2 + bend * w^4."""

    def __init__(self, bend: float) -> None:
        super().__init__()
        self.w, self.bend = nn.Parameter(torch.tensor([1.0, -0.5], dtype=torch.float64)), bend

    def forward(self, _: object = None) -> Tensor:
        return (self.w**2 + self.bend * self.w**4).sum()


def value(model: nn.Module, batch: object) -> Tensor:
    return model(batch)


def bent(model: Curve, d: Tensor) -> float:
    """The part of the gradient's norm by which it leaves a straight line along d."""
    w = model.w.detach()

    def g(at: Tensor) -> Tensor:
        return 2 * at + 4 * model.bend * at**3

    return float((g(w + d) - 2 * g(w + d / 2) + g(w)).norm() / g(w).norm())


@pytest.mark.parametrize("bend", [0.003, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_the_largest_halving_within_the_tolerance(bend: float, momentum: float) -> None:
    model = Curve(bend)
    optimizer = torch.optim.SGD(model.parameters(), lr=7.0, momentum=momentum)
    lr = trusted(es.Objective(model, value, torch.zeros(1)), optimizer, 0.5)
    w = model.w.detach()
    settled = -(2 * w + 4 * bend * w**3) / (1 - momentum)
    halvings = math.log2(0.5 / lr)
    assert halvings == round(halvings) and 0 <= halvings <= 5
    assert bent(model, lr * settled) <= TOLERANCE or halvings == 5
    assert bent(model, 2 * lr * settled) > TOLERANCE or halvings == 0
    if not momentum:  # all three ends are seen
        assert halvings == {0.003: 0, 0.01: 2, 0.1: 3, 1.0: 5}[bend]


def test_on_a_quadratic_it_is_trusted_altogether_whatever_the_method() -> None:
    for make in (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop):
        model = Curve(0.0)
        optimizer = make(model.parameters(), lr=1.0)
        assert trusted(es.Objective(model, value, torch.zeros(1)), optimizer, 1e3) == 1e3


def test_momentum_under_way_is_taken_as_it_is_and_nothing_changes() -> None:
    model = Curve(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model().backward()
    optimizer.step()
    buffer, weights = optimizer.state[model.w]["momentum_buffer"].clone(), model.w.detach().clone()
    lr = trusted(es.Objective(model, value, torch.zeros(1)), optimizer, 0.5)
    step = -(0.9 * buffer + 2 * weights + 4 * 0.1 * weights**3)
    assert bent(model, lr * step) <= TOLERANCE < bent(model, 2 * lr * step)
    assert torch.equal(model.w, weights) and torch.equal(optimizer.state[model.w]["momentum_buffer"], buffer)
