"""What a diagnosis says at tiny scales, at and long after the minimum, beside closed forms and the run itself."""

import math

import pytest
import torch
from torch import Tensor, nn

import eigenstep as es

F64 = torch.float64
CURVATURES = (1.0, 100.0)


class Bowl(nn.Module):
    """1/2 scale sum lambda w^2."""

    def __init__(
        self, scale: float = 1.0, dtype: torch.dtype = F64, curvatures: tuple[float, ...] = CURVATURES
    ) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([-0.8, -0.6], dtype=dtype)[: len(curvatures)])
        self.curvatures, self.scale = torch.tensor(curvatures, dtype=dtype), scale

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.scale * (self.curvatures * self.w**2).sum() + 0 * x.sum()


def value(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)  # type: ignore[no-any-return]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, updates: int, data: Tensor) -> list[float]:
    """Plain updates; the loss before each, and after the last."""
    losses = []
    for _ in range(updates):
        optimizer.zero_grad()
        found = model(data)
        losses.append(float(found.detach()))
        found.backward()
        optimizer.step()
    return [*losses, float(model(data).detach())]


ONE = torch.ones(4, 1, dtype=F64)


def settled(name: str, size: float, dtype: torch.dtype = F64) -> tuple[Bowl, torch.optim.Optimizer]:
    """Some updates, and then as if many more had made weights, and what is kept of gradients, so small."""
    model = Bowl(dtype=dtype)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-2)
    train(model, optimizer, 20, ONE.to(dtype))
    with torch.no_grad():
        model.w.mul_(size)
        optimizer.state[model.w]["exp_avg"].mul_(size)
        optimizer.state[model.w]["exp_avg_sq"].mul_(size).mul_(size)
        optimizer.state[model.w]["step"] += 10_000
    return model, optimizer


@pytest.mark.parametrize("size", [1e-100, 1e-160, 1e-320])
@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam"])
def test_long_after_convergence_there_is_a_diagnosis(name: str, size: float) -> None:
    """Losses of 1e-200 and 0: squares of them are lost, the diagnosis is not."""
    model, optimizer = settled(name, size)
    found = es.diagnose(es.Objective(model, value, ONE), optimizer, quick=True)
    assert found.loss < 1e-190 and str(found)


@pytest.mark.parametrize(
    ("scale", "lr"), [(1.0, 1e-3), (1.0, 1e-9), (1e-12, 1e-3), (1e-60, 1e48), (1e60, 1e-64), (1e60, 1e-61)]
)
def test_the_critical_lr_is_found_however_far_the_lr_is_from_it(scale: float, lr: float) -> None:
    """On a parabola the edge of one step along the gradient is 2 g'g / g'Hg, in closed form."""
    model = Bowl(scale)
    gradient = torch.tensor([-0.8, -0.6], dtype=F64) * model.curvatures * scale
    edge = 2 * float(gradient @ gradient / (gradient @ (model.curvatures * scale * gradient)))
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    found = es.critical_sharpness(es.Objective(model, value, ONE), sgd)
    assert found.lr == pytest.approx(edge, rel=0.01) and found.converged
    assert found.interval is not None and found.interval[0] * (1 - 1e-9) <= edge <= found.interval[1] * (1 + 1e-9)
    assert f"from lr {found.lr:.4g} on" in str(found)


def test_an_update_that_the_weights_swallow_is_no_missing_gradient() -> None:
    model = Bowl(1e-12)
    found = es.critical_sharpness(es.Objective(model, value, ONE), torch.optim.SGD(model.parameters(), lr=1e-9))
    assert found.value is None and "rounding swallows the move" in str(found)


def test_a_loss_that_rises_nowhere_is_said_to_have_been_looked_at_so_far() -> None:
    model = Bowl()
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)
    found = es.critical_sharpness(es.Objective(model, lambda m, x: m.w.sum() + 0 * x.sum(), ONE), sgd)
    assert found.lr == math.inf and found.value == 0 and found.interval is not None
    assert "inf" not in str(found) and f"at no lr that was looked at, up to {found.interval[0]:.4g}" in str(found)


def test_an_optimizer_whose_own_step_fails_is_diagnosed_without_it() -> None:
    model = Bowl()
    adam = torch.optim.Adam(model.parameters(), capturable=True)
    found = es.diagnose(es.Objective(model, value, ONE), adam, quick=True)
    assert found.critical is None and "Adam cannot take a step here (If capturable=True" in found.reasons["critical"]
    with pytest.raises(es.EigenstepError, match="take one with it yourself"):
        es.critical_sharpness(es.Objective(model, value, ONE), adam)
