"""Real networks obey the limit: sharpness rises to it and stays; from a trained point the loss rises just above it."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import eigenstep as es

Make = Callable[..., torch.optim.Optimizer]
SGD = torch.optim.SGD


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parent.parent / "examples" / "edge_of_stability.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda p: SGD(p, lr=0.4), 1800),
        (lambda p: SGD(p, lr=0.4, momentum=0.9), 5500),
        (lambda p: SGD(p, lr=0.2, momentum=0.9, nesterov=True), 1500),
        (lambda p: torch.optim.Adam(p, lr=3e-3), 3500),
    ],
    ids=["gradient descent", "heavy ball", "nesterov", "adam"],
)
def test_sharpness_rises_to_the_edge_and_stays(example: ModuleType, make: Make, steps: int) -> None:
    _, ratios, losses = example.run(make, steps)
    arrived = next(i for i, ratio in enumerate(ratios) if ratio >= 0.98)
    settled = ratios[arrived:]
    assert ratios[0] < 0.6  # it began far below
    assert len(settled) > len(ratios) / 5
    assert sum(settled) / len(settled) == pytest.approx(1, abs=0.03)
    assert losses[-1] < losses[arrived]  # and training goes on there


def squares(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return 0.5 * ((net(batch[0]) - batch[1]) ** 2).sum(1).mean()


@pytest.mark.slow
def test_from_a_trained_point_the_loss_rises_first_at_the_limit() -> None:
    digits = load_digits()
    images = torch.tensor(StandardScaler().fit_transform(digits.data)[:600])
    batch = images, nn.functional.one_hot(torch.tensor(digits.target[:600]), 10).double()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 10)).double()

    def rises(make: Make, lr: float, steps: int) -> bool:
        other = copy.deepcopy(net)
        optimizer, start = make(other.parameters(), lr), float(squares(net, batch).detach())
        for _ in range(steps):
            optimizer.zero_grad()
            squares(other, batch).backward()
            optimizer.step()
            if not float(squares(other, batch).detach()) <= start:
                return True
        return False

    trained = SGD(net.parameters(), lr=0.3)
    for _ in range(500):
        trained.zero_grad()
        squares(net, batch).backward()
        trained.step()
    makes: dict[str, tuple[Make, float, float]] = {
        "gradient descent": (lambda p, lr: SGD(p, lr=lr), 0.95, 1.05),
        "heavy ball": (lambda p, lr: SGD(p, lr=lr, momentum=0.9), 0.9, 1.05),
        "nesterov": (lambda p, lr: SGD(p, lr=lr, momentum=0.9, nesterov=True), 0.9, 1.05),
    }
    for name, (make, below, above) in makes.items():
        limit = es.limit_now(es.Objective(net, squares, batch), make(net.parameters(), 0.1)).max_stable_lr
        assert not rises(make, below * limit, 300), name
        assert rises(make, above * limit, 300), name


def test_the_limit_reads_the_same_from_any_lr() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 10)).double()
    batch: Any = torch.randn(30, 8).double(), torch.randn(30, 10).double()
    objective = es.Objective(net, squares, batch)
    limits = [es.limit_now(objective, SGD(net.parameters(), lr=lr, momentum=0.9)).max_stable_lr for lr in (0.01, 10.0)]
    assert limits[0] == pytest.approx(limits[1], rel=1e-6)
