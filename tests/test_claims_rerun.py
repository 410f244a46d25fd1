"""Claims whose numbers no formula gives, run again by other means: torch.optim, the article's formulas in a loop."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eigenstep.article.claims import judge, named


def test_the_wells_that_momentum_ends_in_are_those_of_torch() -> None:
    starts = torch.linspace(-3, 3, 400, dtype=torch.float64)
    plain, heavy = (torch.nn.Parameter(starts.clone()) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [plain]}, {"params": [heavy], "momentum": 0.99}], lr=0.001)
    for _ in range(2000):
        optimizer.zero_grad()
        x = torch.stack((plain, heavy))
        wells = torch.stack((2 * (x + 1) ** 2, 50 * (x - 1) ** 2))
        (-0.2 * torch.logsumexp(-wells / 0.2, 0)).sum().backward()  # each start on its own
        optimizer.step()
    assert ((plain.abs() - 1).abs() < 1e-2).all()
    assert ((heavy.abs() - 1).abs() < 1e-2).all()
    share = float((plain.sign() != heavy.sign()).double().mean())
    assert 0.1 < share < 0.4
    assert judge(named("overshoot")).stated.number == share


def adagrad(g: Tensor, s: Tensor, m: Tensor, t: int) -> Tensor:
    s += g**2
    return g / (s.sqrt() + 1e-10)


def rmsprop(g: Tensor, s: Tensor, m: Tensor, t: int) -> Tensor:
    s.mul_(0.99).add_(0.01 * g**2)
    return g / (s.sqrt() + 1e-8)


def adam(g: Tensor, s: Tensor, m: Tensor, t: int) -> Tensor:
    m.mul_(0.9).add_(0.1 * g)
    s.mul_(0.999).add_(0.001 * g**2)
    return m / (1 - 0.9**t) / ((s / (1 - 0.999**t)).sqrt() + 1e-8)


@pytest.mark.parametrize("scale", [1.0, 0.001])
def test_the_best_lrs_are_those_of_a_plain_loop(scale: float) -> None:
    values = scale * torch.tensor([1.0, 100.0], dtype=torch.float64)
    grid = torch.logspace(-4, 1, 101, dtype=torch.float64)

    def best(lr: Tensor, move: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> float:
        error = torch.tensor([-0.8, -0.6], dtype=torch.float64).expand(len(lr), 2)
        s, m, last = torch.zeros(len(lr), 2).double(), torch.zeros(len(lr), 2).double(), torch.zeros(len(lr))
        for t in range(1, 501):
            error = error - lr.unsqueeze(-1) * move(values * error, s, m, t)
            last[~(error.norm(dim=-1) <= 0.01)] = t  # not below, nan included
        return float(lr[int(last.argmin())])

    descent = best(grid / scale, lambda g, s, m, t: g)
    ratio = max(best(grid, move) for move in (adagrad, rmsprop, adam)) / descent
    assert (ratio < 1) == (scale < 1)
    within = {} if scale == 1 else {"scale": scale}
    assert judge(named("smaller-eta"), stated=within).stated.number == pytest.approx(ratio)
