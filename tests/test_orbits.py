"""Long after convergence, and far below the limit: what a diagnosis says, against the run that goes on."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es
from eigenstep.theory import orbit_half_width

F64 = torch.float64
Batch = tuple[Tensor, Tensor]
Make = Callable[..., torch.optim.Optimizer]


def regression(noise: float = 1e-9) -> tuple[nn.Module, Batch, Tensor]:
    """10 features, 200 samples, float64; the model, its data, and the weights with the least loss.

    The least noise keeps rounding from parking a run exactly on the minimum, where no eps matters any more.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=generator, dtype=F64)
    y = x @ torch.randn(10, 1, generator=generator, dtype=F64)
    y += noise * torch.randn(200, 1, generator=generator, dtype=F64)
    model = nn.Linear(10, 1, bias=False).to(F64)
    nn.init.zeros_(model.weight)
    return model, (x, y), torch.linalg.lstsq(x, y).solution.T


def mean_square(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def go_on(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, updates: int) -> tuple[Tensor, Tensor]:
    """The losses before each update, and the weights."""
    losses, weights = [], []
    for _ in range(updates):
        optimizer.zero_grad()
        loss = mean_square(model, batch)
        loss.backward()
        losses.append(loss.detach())
        weights.append(model.weight.detach().clone())
        optimizer.step()
    return torch.stack(losses), torch.stack(weights)


def number(text: str, before: str) -> float:
    found = re.search(re.escape(before) + r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    assert found, text
    return float(found[1])


ORBITS: dict[str, tuple[Make, float]] = {
    "Adam": (lambda p: torch.optim.Adam(p, 1e-2), 1e-2 / 38),
    "AdamW": (lambda p: torch.optim.AdamW(p, 1e-2, betas=(0.8, 0.99), weight_decay=0.0), 1e-2 * 0.2 / 3.6),
    "NAdam": (lambda p: torch.optim.NAdam(p, 1e-2), orbit_half_width(es.NAdam(lr=1e-2))),
    "RAdam": (lambda p: torch.optim.RAdam(p, 1e-2), 1e-2 / 38),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, 1e-2), 1e-2 / 2),
    "RMSprop, centered": (lambda p: torch.optim.RMSprop(p, 1e-2, centered=True), 1e-2 / 2),
    "RMSprop with momentum": (lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9), 1e-3 / 3.8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORBITS)
def test_the_orbit_that_an_adaptive_method_ends_in_is_named_with_what_ends_it(name: str) -> None:
    make, half_width = ORBITS[name]
    model, batch, best = regression()
    optimizer = make(model.parameters())
    went, _ = go_on(model, optimizer, batch, 3000)
    found = es.diagnose(es.Objective(model, mean_square, batch), optimizer)
    text = found.sentence
    assert found.verdict == "done" and "any stable lr" not in text and "falls to zero" in text
    width, level, eps = number(text, "half-width "), number(text, "loss is about "), number(text, "eps above ")
    assert width == pytest.approx(half_width, rel=5e-3)
    sharpness = float(torch.linalg.eigvalsh(2 * batch[0].T @ batch[0] / 200)[-1])
    assert eps == pytest.approx(half_width * sharpness, rel=0.02)
    state = {key: {k: v.clone() for k, v in value.items()} for key, value in optimizer.state.items()}
    start = model.weight.detach().clone()

    def again(updates: int, falling: bool = False) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            model.weight.copy_(start)
        fresh = make(model.parameters())
        fresh.state.update({key: {k: v.clone() for k, v in value.items()} for key, value in state.items()})
        if not falling:
            return go_on(model, fresh, batch, updates)
        lr, runs = fresh.param_groups[0]["lr"], []
        for k in range(10):
            fresh.param_groups[0]["lr"] = lr * 0.25**k
            runs.append(go_on(model, fresh, batch, updates // 10))
        return runs[-1]

    losses, weights = again(2500)
    error = (weights - best).abs()
    assert losses.max() > 0.1 * level  # it does not stay at the minimum: the loss rises to the orbit's again and again
    assert level / 30 < losses.mean() < level * 10 and losses.max() < 200 * level
    assert 0.2 * width < float(error.square().mean().sqrt()) < 4 * width and float(error.max()) < 15 * width
    for factor in (1.3, 0.7):
        with torch.no_grad():
            model.weight.copy_(best + 1e-6)  # so near that the unit is eps
        fresh = make(model.parameters())
        fresh.param_groups[0]["eps"] = factor * eps
        go_on(model, fresh, batch, 1)
        fresh.state[model.weight]["step"] += 1e5  # NAdam's and RAdam's coefficients come late
        near = (go_on(model, fresh, batch, 400)[1] - best).abs()
        assert (near[-50:].max() < 5e-7) if factor > 1 else (near.max() > 0.05 * width)
    assert again(2000, falling=True)[0][-1] < 1e-3 * level
    assert losses.max() > 1e3 * went.min() or name != "Adam"


@pytest.mark.slow
@pytest.mark.parametrize("rule", [es.SignDescent(lr=1e-2), es.Lion(lr=1e-2), es.Lion(lr=1e-2, betas=(0.5, 0.9))])
def test_the_cycle_that_a_sign_rule_ends_in_is_named(rule: es.Rule) -> None:
    model, batch, _ = regression()
    optimizer = es.Optimizer(model.parameters(), rule)
    go_on(model, optimizer, batch, 1500)
    found = es.diagnose(es.Objective(model, mean_square, batch), optimizer)
    assert found.verdict == "done" and "An eps" not in found.sentence and "Only an lr that falls" in found.sentence
    width, level = number(found.sentence, "half-width "), number(found.sentence, "loss is about ")
    losses, weights = go_on(model, optimizer, batch, 1500)
    ranges = (weights.amax(0) - weights.amin(0)) / 2
    assert width / 2 <= float(ranges.median()) * 1.001 and float(ranges.median()) <= 2.001 * width
    assert level / 4 < losses.mean() < level * 4


CONVERGE: list[Make] = [
    lambda p: torch.optim.SGD(p, 0.1),
    lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True),
    lambda p: torch.optim.Adagrad(p, 0.3),
    lambda p: torch.optim.Adam(p, 1e-2, eps=1e-2),
]


@pytest.mark.parametrize("make", CONVERGE, ids=["SGD", "AMSGrad", "AdaGrad", "a large eps"])
def test_what_converges_has_no_orbit(make: Make) -> None:
    model, batch, _ = regression()
    optimizer = make(model.parameters())
    go_on(model, optimizer, batch, 900)
    found = es.diagnose(es.Objective(model, mean_square, batch), optimizer)
    assert found.verdict == "done" and "any stable lr will do" in found.sentence and "orbit" not in found.sentence
    before = float(mean_square(model, batch).detach())
    assert go_on(model, optimizer, batch, 300)[0].max() <= max(1.01 * before, 1e-9)


def test_groups_at_different_lr_end_in_the_widest_orbit() -> None:
    model, batch, _ = regression()
    model = nn.ParameterList([nn.Parameter(torch.zeros(5, dtype=F64)), nn.Parameter(torch.zeros(5, dtype=F64))])
    best = torch.linalg.lstsq(*batch).solution.squeeze(1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return (batch[0] @ torch.cat(list(model)) - batch[1].squeeze(1)).square().mean()

    with torch.no_grad():
        model[0].copy_(best[:5] + 1e-3)
        model[1].copy_(best[5:] + 1e-3)
    adam = torch.optim.Adam([{"params": [model[0]], "lr": 1e-3}, {"params": [model[1]], "lr": 1e-2}], betas=(0.9, 0.99))
    for _ in range(600):
        adam.zero_grad()
        loss(model, batch).backward()
        adam.step()
    found = es.diagnose(es.Objective(model, loss, batch), adam)
    assert number(found.sentence, "half-width ") == pytest.approx(1e-2 / 38, rel=5e-3)
    sharpness = float(torch.linalg.eigvalsh(2 * batch[0].T @ batch[0] / 200)[-1])
    assert number(found.sentence, "eps above ") == pytest.approx(1e-2 / 38 * sharpness, rel=0.02)


def test_above_the_frozen_limit_beside_a_floor_the_orbit_is_named_too() -> None:
    """The loss ends at 1, not at 0, so that it is not seen to be done; the orbit is there all the same."""
    model, batch, best = regression(noise=1.0)
    with torch.no_grad():
        model.weight.copy_(best + 1e-4)
    adam = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.9, 0.99))
    go_on(model, adam, batch, 600)
    found = es.diagnose(es.Objective(model, mean_square, batch), adam)
    assert "orbit of half-width 0.000263" in found.sentence, found.sentence
    floor = float(F.mse_loss(batch[0] @ best.T, batch[1]))
    level = number(found.sentence, "loss is about ")
    losses, weights = go_on(model, adam, batch, 600)
    assert level == pytest.approx(float(losses.mean()), rel=1e-3) and losses.max() - floor < 1e-3
    assert 0.2 * 1e-2 / 38 < float((weights - best).square().mean().sqrt()) < 4 * 1e-2 / 38


def curves(net: nn.Module, _: Tensor) -> Tensor:
    return 0.5 * (net.curvatures * net.w.square()).sum()


class Bowl(nn.Module):
    """A quadratic; its gradient's median curvature is that of the second parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.curvatures = torch.tensor([10.0, 1.0, 0.01], dtype=F64)
        self.w = nn.Parameter(torch.tensor([0.01, 1.0, 10.0], dtype=F64))


SLOW: dict[str, Make] = {
    "gradient descent": lambda p, lr: torch.optim.SGD(p, lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_crawling_headline_and_the_row_that_raises_the_lr_are_the_run(name: str) -> None:
    make, x = SLOW[name], torch.zeros(1)
    net = Bowl()
    found = es.diagnose(es.Objective(net, curves, x), make(net.parameters(), 1e-3))
    rows = {change.name: change for change in found.changes}
    now, raised = rows["as it is"], rows["half the limit"]
    assert found.verdict == "crawling" and raised.lr > now.lr and raised.ratio == pytest.approx(0.5, rel=1e-6)
    assert raised.lr == pytest.approx(found.max_stable_lr / 2, rel=0.01)
    said = [
        number(found.sentence.replace(",", ""), "to a tenth in "),
        number(found.sentence.replace(",", ""), "is in "),
    ]
    assert said == [math.ceil(raised.tenfold), math.ceil(now.tenfold)]
    assert number(found.sentence, "lr ") == pytest.approx(now.lr)
    assert number(found.sentence, "half the limit, lr ") == pytest.approx(raised.lr, rel=5e-3)
    for row in (now, raised):  # updates to a further tenth, once it has settled to its rate
        net = Bowl()
        optimizer, seen = make(net.parameters(), row.lr), []
        for _ in range(int(4 * row.tenfold) + 5):
            seen.append(abs(float(net.w[1].detach())))
            optimizer.zero_grad()
            curves(net, x).backward()
            optimizer.step()
        span = math.ceil(row.tenfold)
        window = [max(seen[k * span : (k + 1) * span]) for k in (1, 2, 3)]
        assert window[2] / window[1] == pytest.approx(0.1 ** (span / row.tenfold), rel=0.35)


def test_a_batch_normalised_network_far_below_its_limit_is_told_to_raise_the_lr() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 12, generator=generator), torch.randint(4, (128,), generator=generator)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def run(lr: float) -> float:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
        sgd = torch.optim.SGD(net.parameters(), lr)
        for _ in range(100):
            sgd.zero_grad()
            value = loss(net, (x, y))
            value.backward()
            sgd.step()
        return float(value.detach())

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    found = es.diagnose(es.Objective(net, loss, (x, y)), torch.optim.SGD(net.parameters(), 1e-4))
    rows = {change.name: change for change in found.changes}
    assert found.verdict == "crawling" and rows["half the limit"].lr == pytest.approx(found.max_stable_lr / 2, rel=0.01)
    assert f"in {math.ceil(rows['as it is'].tenfold):,} updates." in found.sentence
    assert run(rows["half the limit"].lr) < 0.5 * run(1e-4)
    close = es.diagnose(es.Objective(net, loss, (x, y)), torch.optim.SGD(net.parameters(), found.max_stable_lr / 2))
    assert "half the limit" not in {change.name for change in close.changes}  # it is there already
