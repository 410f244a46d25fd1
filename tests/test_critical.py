"""Critical sharpness against closed forms on quadratics, for every kind of optimizer, and what must stay untouched."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.snapshot import Snapshot
from torch import Tensor, nn

import eigenstep as es
from eigenstep.stability.critical import smallest_rise

H = torch.tensor([[3.0, 1.0, 0.0], [1.0, 9.0, 2.0], [0.0, 2.0, 30.0]], dtype=torch.float64)
START = torch.tensor([1.0, -0.7, 0.3], dtype=torch.float64)


class Point(nn.Module):
    """Parameters that are the point of a quadratic."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(START.clone())


def quadratic(model: Any, batch: Tensor) -> Tensor:
    return model.w @ batch[0] @ model.w / 2


def crossing(update: Tensor) -> float:
    """Where the loss along an update is back at its start: -2 g'd / d'Hd."""
    return float(-2 * (H @ START) @ update / (update @ H @ update))


class SignStep(torch.optim.Optimizer):
    """A user's own optimizer, with an attribute of its own that torch's copying would lose."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.gain = 2.0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=group["lr"] * self.gain)


G = H @ START
CASES = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.01), -G),
    "heavy ball": (lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9), -G),
    "adam": (lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-12), -G.sign()),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-12, weight_decay=0.1), -G.sign() - 0.1 * START),
    "lion": (lambda p: es.Optimizer(p, es.Lion(lr=1e-4)), -G.sign()),
    "a user's own": (lambda p: SignStep(p, lr=0.05), -2.0 * G.sign()),
    "lbfgs": (lambda p: torch.optim.LBFGS(p, lr=0.01, max_iter=1), -G / G.abs().sum()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_quadratic_crosses_where_its_closed_form_says(name: str) -> None:
    make, update = CASES[name]
    model = Point()
    objective = es.Objective(model, quadratic, H[None])
    found = es.critical_sharpness(objective, make(model.parameters()))
    assert found.converged
    low, high = found.interval
    assert low <= crossing(update) <= high * (1 + 1e-12)
    assert high <= 1.0101 * low
    assert found.value == pytest.approx(2 / found.lr)
    assert found.passes <= 25


def test_gradient_descent_reads_the_curvature_along_the_gradient() -> None:
    model = Point()
    found = es.critical_sharpness(es.Objective(model, quadratic, H[None]), torch.optim.SGD(model.parameters(), lr=1e-3))
    assert found.value == pytest.approx(float(G @ H @ G / (G @ G)), rel=0.01)
    assert found.value <= float(torch.linalg.eigvalsh(H).max())


def test_muon_steps_whole_matrices() -> None:
    model = nn.Linear(3, 3, bias=False).double()
    data = torch.randn(20, 3, dtype=torch.float64)
    objective = es.Objective(model, lambda model, x: model(x).square().mean() / 2, data)
    optimizer = torch.optim.Muon(model.parameters(), lr=0.01, weight_decay=0.0)
    found = es.critical_sharpness(objective, optimizer)
    (w,) = (p.detach().clone() for p in model.parameters())
    (g,) = torch.autograd.grad(objective.loss(model, data), tuple(model.parameters()))
    twin = nn.Parameter(w.clone())
    twin.grad = g
    torch.optim.Muon([twin], lr=0.01, weight_decay=0.0).step()
    d = twin.detach() - w
    expected = -2 * float((g * d).sum()) / float((data @ d.T).square().mean())
    assert found.lr == pytest.approx(0.01 * expected, rel=0.02)


def test_groups_keep_their_ratios_and_a_frozen_one_stands_still() -> None:
    model = nn.ModuleDict({n: Point() for n in "abc"})
    objective = es.Objective(model, lambda m, x: sum(quadratic(m[n], x) for n in "abc"), H[None])
    groups = [{"params": model[n].parameters(), "lr": lr} for n, lr in (("a", 0.0), ("b", 0.02), ("c", 0.01))]
    found = es.critical_sharpness(objective, torch.optim.SGD(groups, lr=1.0))
    expected = 2 * float(G @ G) * 1.5 / (float(G @ H @ G) * 1.25)  # updates -g and -g / 2, in units of b's lr
    assert found.lr == pytest.approx(expected, rel=0.01)


def test_lr_zero_is_read_as_a_warm_ups_start() -> None:
    model = Point()
    objective = es.Objective(model, quadratic, H[None])
    found = es.critical_sharpness(objective, torch.optim.SGD(model.parameters(), lr=0.0))
    assert found.lr == pytest.approx(crossing(-G), rel=0.01)
    assert "every lr is 0" in found.notes[0]


def test_momentum_that_points_uphill_raises_the_loss_at_any_multiple() -> None:
    model = Point()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizer.state[model.w]["momentum_buffer"] = -100 * G
    found = es.critical_sharpness(es.Objective(model, quadratic, H[None]), optimizer)
    assert (found.lr, found.value, found.slope > 0) == (0.0, math.inf, True)
    assert "downhill" in found.notes[0]


@pytest.mark.parametrize(
    "loss", [lambda m, x: m.w.sum() * 0.0 + 1.0, lambda m, x: (m.w - START).square().sum()], ids=["dead", "minimum"]
)
def test_no_number_where_nothing_moves(loss: Any) -> None:
    model = Point()
    found = es.critical_sharpness(es.Objective(model, loss, H[None]), torch.optim.SGD(model.parameters(), lr=0.1))
    assert (found.value, found.lr, found.converged) == (None, None, False)
    assert "the pending update is zero" in found.reason
    assert "none" in str(found)


def test_a_loss_that_never_rises_has_no_limit() -> None:
    model = Point()
    found = es.critical_sharpness(
        es.Objective(model, lambda m, x: m.w.sum(), H[None]), torch.optim.SGD(model.parameters(), lr=0.1)
    )
    assert (found.value, found.lr) == (0.0, math.inf)


def test_not_finite_counts_as_raised() -> None:
    """The loss falls towards w[0] = 0 and is nan beyond: the gradient there is 1 / 2, so that the lr is 2."""
    model = Point()
    objective = es.Objective(model, lambda m, x: m.w[0].sqrt() + 0 * m.w.sum(), H[None])
    found = es.critical_sharpness(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    assert found.lr == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_the_smallest_of_several_crossings_is_found(scale: float) -> None:
    """Falls, rises above the start at s = 1, falls far below from 2.2 on, and rises for good only at 40."""

    def loss(s: float) -> float:
        s /= scale
        return s * (s - 1) if s < 2.2 else (s - 40.0)

    found = smallest_rise(loss, 0.0, -1 / scale, 1e-15, 0.01, 100)
    assert found.low / scale <= 1.0 <= found.high / scale * (1 + 1e-9)
    assert found.converged


def test_everything_is_left_bit_for_bit_also_when_interrupted() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Tanh(), nn.Linear(8, 1))
    x, y = torch.randn(16, 4), torch.randn(16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
    calls = 0

    def loss(m: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return nn.functional.mse_loss(m(batch[0]), batch[1])

    before = Snapshot(model, optimizer)
    for stop in (0, 5, 9):
        calls = 0
        try:
            es.critical_sharpness(es.Objective(model, loss, (x, y)), optimizer)
        except KeyboardInterrupt:
            assert stop
        before.check()


def test_an_optimizer_of_another_model_is_refused_with_the_remedy() -> None:
    model, other = Point(), Point()
    objective = es.Objective(model, quadratic, H[None])
    with pytest.raises(es.InvalidValue, match=r"not the model's; build the optimizer from objective\.model"):
        es.critical_sharpness(objective, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(es.Unsupported, match="not a torch optimizer"):
        es.critical_sharpness(objective, "sgd")  # type: ignore[arg-type]
