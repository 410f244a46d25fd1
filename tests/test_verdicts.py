"""Verdicts against the runs they speak of: dead or without a gradient yet, nothing trains, unbounded."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es

F64 = torch.float64
Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


def data(classes: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 6, generator=generator), torch.randint(classes, (64,), generator=generator)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class LoRA(nn.Module):
    """A frozen layer and a low-rank term whose second factor starts at zero, so that the first has no gradient."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 3).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(rank, 6) * 0.1), nn.Parameter(torch.zeros(3, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + x @ self.a.T @ self.b.T


class Branch(nn.Module):
    """A residual branch: behind a gate at zero, or with its last layer (and the head) at zero."""

    def __init__(self, gate: float, *zero: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 6))
        self.gate, self.head = nn.Parameter(torch.tensor([gate])), nn.Linear(6, 3)
        for p in (p for name, p in self.named_parameters() if name.startswith(zero)):
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.gate * self.branch(x))


def dead_relus() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    nn.init.constant_(model[0].bias, -100.0)
    return model


def zeros() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


ASLEEP: dict[str, Callable[[], nn.Module]] = {
    "LoRA of rank 2": lambda: LoRA(2),
    "LoRA of rank 8": lambda: LoRA(8),
    "a gate at zero": lambda: Branch(0.0),
    "head and branch at zero: two updates": lambda: Branch(1.0, "head", "branch.2"),
}
DEAD: dict[str, Callable[[], nn.Module]] = {"dead ReLUs": dead_relus, "all at zero": zeros}


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, batch: Batch, updates: int) -> list[float]:
    """The losses before each update and after the last, by a plain loop."""
    seen = []
    for _ in range(updates):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        seen.append(float(value.detach()))
    return [*seen, float(loss(model, batch).detach())]


def adamw(model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)


@pytest.mark.parametrize(
    "name", [n if n == "LoRA of rank 2" else pytest.param(n, marks=pytest.mark.slow) for n in ASLEEP]
)
def test_what_wakes_after_the_first_updates_is_not_dead(name: str) -> None:
    torch.manual_seed(1)
    model, batch = ASLEEP[name](), data()
    objective, optimizer = es.Objective(model, cross_entropy, [batch]), adamw(model)
    before = [p.detach().clone() for p in model.parameters()]
    found = es.diagnose(objective, optimizer)
    assert found.verdict not in ("dead", "saddle") and found.ratio is not None
    assert found.zero_gradient_share > 0.5 and "come alive" in found.sentence
    advice = es.recommend(objective, optimizer, train=[batch], budget=100)
    assert advice.trains and advice.lr is not None
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    run = trained(model, advice.apply(optimizer), cross_entropy, batch, 25)
    assert run[-1] < 0.95 * run[0]
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and bool(grad.any()) for grad in grads)  # every parameter has one now


@pytest.mark.parametrize("name", DEAD)
def test_what_stays_without_gradient_is_still_dead(name: str) -> None:
    torch.manual_seed(1)
    model, batch = DEAD[name](), data()
    objective, optimizer = es.Objective(model, cross_entropy, [batch]), adamw(model, 1e-2)
    found = es.diagnose(objective, optimizer)
    assert found.verdict == ("dead" if name == "dead ReLUs" else "saddle") and "alive" not in found.sentence
    advice = es.recommend(objective, optimizer, train=[batch], budget=100)
    assert advice.lr is None and not advice.trains and "99% of the parameters have no gradient" in advice.reason
    trained(model, optimizer, cross_entropy, batch, 200)  # weight decay moves what has no gradient
    silent = sum(p.numel() for p in model.parameters() if not bool(p.grad.any())) / objective.size
    assert silent == pytest.approx(found.zero_gradient_share) and silent > 0.98


def noisy(floor: float) -> tuple[nn.Module, Loss, Batch]:
    """A linear regression whose best loss is `floor`, from a start some percent above it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator, dtype=F64)
    noise = torch.randn(200, generator=generator, dtype=F64)
    noise -= x @ torch.linalg.lstsq(x, noise.unsqueeze(1)).solution.squeeze(1)
    noise *= (floor / noise.square().mean()) ** 0.5
    model = nn.Linear(4, 1, bias=False).to(F64)
    nn.init.zeros_(model.weight)
    y = x @ torch.full((4,), (0.02 * floor) ** 0.5, dtype=F64) + noise
    return model, lambda model, batch: F.mse_loss(model(batch[0]).squeeze(1), batch[1]), (x, y)


def plateau() -> tuple[nn.Module, Loss, Batch]:
    """Seven sigmoid layers: hardly any gradient at the start."""
    torch.manual_seed(0)
    layers = [layer for _ in range(7) for layer in (nn.Linear(6, 6), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(6, 3)), cross_entropy, data()


def flat() -> tuple[nn.Module, Loss, Batch]:
    """A loss that an ordinary step leaves where it is, to the last bit: only a far larger one is seen."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model, lambda model, batch: 1 + (1e-6 * model.weight - 1).square().sum(), data()


def steady() -> tuple[nn.Module, Loss, Batch]:
    """A small but steady fall: a slope under a large constant, down to a floor far away."""
    model = nn.Linear(1, 1, bias=False).to(F64)
    nn.init.zeros_(model.weight)
    return model, lambda model, batch: 100 + F.softplus(8 - model.weight).sum(), data()


@pytest.mark.parametrize(
    "make", [lambda: noisy(1.0), plateau, flat, steady], ids=["floor", "plateau", "flat", "steady"]
)
def test_a_small_fall_is_no_proof_that_nothing_trains(make: Callable[[], tuple[nn.Module, Loss, Batch]]) -> None:
    model, loss, batch = make()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    advice = es.recommend(es.Objective(model, loss, [batch]), sgd, train=[batch], budget=100)
    assert advice.trains and advice.lr is not None, advice.reason
    start = float(loss(model, batch).detach())
    run = trained(model, advice.apply(sgd), loss, batch, advice.verified_steps)
    assert run[-1] == pytest.approx(advice.loss, rel=1e-4) and run[-1] < start
    if 1 - run[-1] / start < 0.2 and max(run[len(run) // 2 :]) - run[-1] < 0.005 * start:
        assert f"the loss fell by {1 - run[-1] / start:.2%}"[:-3] in " ".join(advice.notes)


def test_a_loss_at_its_floor_is_no_dead_model() -> None:
    model, loss, (x, y) = noisy(1.0)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y.unsqueeze(1)).solution.T)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    advice = es.recommend(es.Objective(model, loss, [(x, y)]), sgd, train=[(x, y)], budget=60)
    assert advice.lr is None or advice.notes
    assert "no gradient" not in advice.reason


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=F64))


BOTTOMLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "a slope": lambda w: w[0] + w[1],
    "downhill in all directions": lambda w: -w.square().sum(),
    "up in one direction, down in the other": lambda w: w[0] ** 2 - w[1] ** 2,
    "to minus infinity": lambda w: w[0] ** 2 - torch.exp(w[1]),
}
BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "a floor far below zero, from a start at zero": lambda w: (w - 1000).square().sum() - 2 * 999**2,
    "a floor of zero at infinity": lambda w: torch.exp(-w).sum(),
    "a plateau below": lambda w: torch.tanh(w).sum(),
}
MORE = [name for name in [*BOTTOMLESS, *BOUNDED] if name not in ("a slope", "a plateau below")]
METHODS = [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.Adam(p, lr=0.01)]


@pytest.mark.parametrize("method", METHODS, ids=["SGD", "Adam"])
@pytest.mark.parametrize(
    "name", ["a slope", "a plateau below", *[pytest.param(n, marks=pytest.mark.slow) for n in MORE]]
)
def test_only_a_loss_without_a_floor_is_called_unbounded(
    name: str, method: Callable[..., torch.optim.Optimizer]
) -> None:
    function = {**BOTTOMLESS, **BOUNDED}[name]
    model, x = Pair(), torch.zeros(1)
    objective, optimizer = es.Objective(model, lambda model, x: function(model.w), [x]), method(model.parameters())
    found, advice = es.diagnose(objective, optimizer), es.recommend(objective, optimizer, train=[x], budget=100)
    if name in BOUNDED:
        assert "unbounded" not in found.sentence + advice.reason and advice.trains and advice.lr is not None
        return
    assert "unbounded" in found.sentence and found.verdict not in ("done", "dead")
    assert advice.lr is None and not advice.trains
    assert "lowered" not in advice.reason
    told = advice.reason.split("the lower it falls, from ")[1].split()
    start, far, times = float(told[0]), float(told[2]), float(told[4])
    assert start == pytest.approx(float(function(model.w).detach()), rel=1e-3)
    before = model.w.detach().clone()
    trained(model, optimizer, lambda model, x: function(model.w), x, 1)
    assert float(function(before + times * (model.w.detach() - before))) == pytest.approx(far, rel=0.02)


@pytest.mark.parametrize("budget", [100, 500])
def test_a_loss_that_falls_for_ever_in_the_runs_is_called_unbounded(budget: int) -> None:
    """Along the first update it rises again; the run finds the way down beside it."""
    model, x = Pair(), torch.zeros(1)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return 4 * model.w[0] ** 2 - model.w[1] ** 2

    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    advice = es.recommend(es.Objective(model, loss, [x]), sgd, train=[x], budget=budget)
    assert advice.lr is None and advice.reason.startswith("the loss is unbounded: at lr ")
    lr, low, updates = (float(advice.reason.split(word)[1].split()[0]) for word in ("at lr ", " to ", "within "))
    sgd.param_groups[0]["lr"] = lr  # the very run that the reason tells of
    run = trained(model, sgd, loss, x, int(updates))
    assert run[0] == 3 and run[-1] == pytest.approx(low, rel=0.1) and run[-1] < run[-2] < 0
