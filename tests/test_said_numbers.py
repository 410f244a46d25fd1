"""What a diagnosis says at tiny scales, at and long after the minimum, beside closed forms and the run itself."""

import math
import re
from typing import Any

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


@pytest.mark.parametrize(("name", "dtype", "size"), [("NAdam", F64, 1e-165), ("Adam", torch.float32, 1e-40)])
def test_a_loss_of_exactly_zero_has_nothing_left(name: str, dtype: torch.dtype, size: float) -> None:
    model, optimizer = settled(name, size, dtype)
    found = es.diagnose(es.Objective(model, value, ONE.to(dtype)), optimizer, quick=True)
    assert found.loss == 0 and found.verdict == "done" and "lower the loss" not in found.sentence


def test_a_saddle_of_loss_zero_is_not_done() -> None:
    model = Bowl(curvatures=(1.0, -1.0))
    with torch.no_grad():
        model.w.zero_()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    assert es.diagnose(es.Objective(model, value, ONE), sgd, quick=True).verdict != "done"


def row(found: es.Diagnosis, name: str) -> str:
    return next((words for key, words in found.rows() if key.startswith(name)), "")


DECAYING = [("SGD", 1e-2, 2.0), ("SGD", 1e-2, 0.5), ("SGD", 1e-2, 0.0), ("RMSprop", 1e-3, 2.0), ("AdamW", 1e-3, 0.5)]


@pytest.mark.parametrize(("name", "lr", "decay"), DECAYING)
def test_what_goes_at_least_does_go_weight_decay_included(name: str, lr: float, decay: float) -> None:
    """The loss's own fall, on an exact quadratic, against the run; not that of the loss with its penalty."""
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(64, 6, generator=generator), torch.randn(64, 1, generator=generator)
    weight = nn.Parameter(torch.randn(6, 1, generator=generator) / 3)
    model = nn.Module()
    model.weight = weight
    model.forward = lambda batch: (batch @ weight - y).square().mean()  # type: ignore[method-assign]
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=lr, weight_decay=decay)
    train(model, optimizer, 0 if name == "SGD" else 30, x)
    found = es.diagnose(es.Objective(model, lambda model, batch: model.forward(batch), x), optimizer, quick=True)
    losses = train(model, optimizer, 1000, x)
    fall = (losses[0] - losses[-1]) / losses[0]
    assert found.slow is not None
    certain = found.slow.certain()
    assert certain <= fall + 1e-4
    assert certain > 0.8 * fall or name != "SGD"
    said = row(found, "goes within")
    assert (f"at least {math.floor(1000 * certain) / 1000:.1%}" in said) == (certain >= 0)


def test_where_nothing_curves_no_error_shrinks_and_nothing_is_certain() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(64, 6, generator=generator)
    model = nn.Linear(6, 1)

    def hinge(model: nn.Module, batch: Tensor) -> Tensor:
        return torch.relu(1 - model(batch) * batch[:, :1].sign()).mean()

    found = es.diagnose(es.Objective(model, hinge, x), torch.optim.SGD(model.parameters(), lr=0.5), quick=True)
    assert row(found, "goes within").startswith("at least 0.0% of the loss, 100.0% more if it falls on")
    assert not row(found, "not moving")


def test_at_the_minimum_no_gradient_is_said_to_stand_still() -> None:
    model = Bowl()
    with torch.no_grad():
        model.w.zero_()
    found = es.diagnose(es.Objective(model, value, ONE), torch.optim.SGD(model.parameters(), lr=1e-3), quick=True)
    assert found.verdict == "done" and row(found, "not moving").endswith("there is no gradient")


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_an_lr_far_below_the_limit_crawls_whatever_the_rule(name: str) -> None:
    model = Bowl(1e-12)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3)
    train(model, optimizer, 3, ONE)
    found = es.diagnose(es.Objective(model, value, ONE), optimizer, quick=True)
    losses = train(model, optimizer, 300, ONE)
    assert found.verdict == "crawling" and losses[-1] > 0.9 * losses[0]


@pytest.mark.parametrize(
    ("lr", "said"), [(0.35, "6"), (0.5, "4"), (0.9, "1"), (1e-6, "2.3e+06"), (1e-14, "over 1e+12")]
)
def test_updates_to_a_tenth_are_enough(lr: float, said: str) -> None:
    """At curvature 1 each update leaves 1 - lr; the count said is enough, and one fewer is not."""
    model = Bowl(curvatures=(1.0,))
    found = es.diagnose(es.Objective(model, value, ONE), torch.optim.SGD(model.parameters(), lr=lr), quick=True)
    assert found.change_rows()[0][-1] == said
    if len(said) == 1:
        assert (1 - lr) ** int(said) <= 0.1 < (1 - lr) ** (int(said) - 1)


@pytest.mark.parametrize(
    ("name", "options"), [("RMSprop", {}), ("Adam", {"betas": (0.9, 0.95)}), ("Adam", {"betas": (0.5, 0.99)})]
)
def test_the_loss_on_the_orbit_is_that_of_the_run_which_is_on_it(name: str, options: dict[str, Any]) -> None:
    """Also where the optimizer stands on the orbit already; bursts are told where there are some."""
    model = Bowl()
    with torch.no_grad():
        model.w.mul_(0.1)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-2, **options)
    train(model, optimizer, 2000, ONE)
    found = es.diagnose(es.Objective(model, value, ONE), optimizer, quick=True)
    run = torch.tensor(train(model, optimizer, 1500, ONE))
    said = re.search(r"the loss is about ([\d.e+-]+)", found.sentence)
    assert said, found.sentence
    assert float(said[1].rstrip(".")) == pytest.approx(float(run.mean()), rel=0.15)
    assert ("bursts" in found.sentence) == (float(run.max()) > 9 * float(run.mean()))
