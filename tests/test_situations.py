"""The situations that a diagnosis must tell apart, each with the numeric criterion that makes its verdict right."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import eigenstep as es

Batch = tuple[Tensor, Tensor]
Make = Callable[..., torch.optim.Optimizer]


def digits(count: int = 300, scale: float = 16.0) -> Batch:
    data = load_digits()
    images = torch.tensor(data.data[:count] / scale, dtype=torch.float32)
    return images, F.one_hot(torch.tensor(data.target[:count]), 10).float()


def squares(net: nn.Module, batch: Batch) -> Tensor:
    return 0.5 * ((net(batch[0]) - batch[1]) ** 2).sum(1).mean()


def tanh_net(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 16), *extra, nn.Tanh(), nn.Linear(16, 10))


def losses(net: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, steps: int) -> list[float]:
    """Train, and return the losses before each update."""
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = squares(net, batch)
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    return seen


def limit(net: nn.Module, make: Make, batch: Batch, lr: float = 1.0) -> float:
    return es.limit_now(es.Objective(net, squares, batch), make(net.parameters(), lr=lr)).max_stable_lr


def diagnosed(net: nn.Module, optimizer: torch.optim.Optimizer, data: Any, **options: Any) -> es.Diagnosis:
    return es.diagnose(es.Objective(net, squares, data), optimizer, **options)


SGD = torch.optim.SGD


def test_01_three_times_the_limit() -> None:
    net, batch = tanh_net(), digits()
    sgd = SGD(net.parameters(), lr=3 * limit(net, SGD, batch))
    found = diagnosed(net, sgd, batch)
    assert found.verdict == "unstable" and found.failing
    assert found.ratio == pytest.approx(3, rel=0.02)
    run = losses(net, sgd, batch, 30)
    assert max(run) > 1.5 * run[0]  # it really leaves


def test_02_a_hundredth_of_the_limit_crawls() -> None:
    net, batch = tanh_net(), digits()
    edge = limit(net, SGD, batch)
    found = diagnosed(net, SGD(net.parameters(), lr=edge / 100), batch)
    assert found.verdict == "crawling"
    assert found.ratio == pytest.approx(0.01, rel=0.02)
    slow = losses(net, SGD(net.parameters(), lr=edge / 100), batch, 300)[-1]
    other = tanh_net()
    assert losses(other, SGD(other.parameters(), lr=edge / 2), batch, 300)[-1] < 0.7 * slow


@pytest.mark.slow
def test_03_the_edge_of_stability_is_normal() -> None:
    net, batch = tanh_net(), digits()
    sgd = SGD(net.parameters(), lr=0.4)
    losses(net, sgd, batch, 1500)
    found = diagnosed(net, sgd, batch)
    assert found.verdict == "edge" and "normal" in found.sentence and not found.failing
    assert found.ratio == pytest.approx(1, abs=0.1)


def test_04_safe() -> None:
    net, batch = tanh_net(), digits()
    sgd = SGD(net.parameters(), lr=0.3 * limit(net, SGD, batch))
    found = diagnosed(net, sgd, batch)
    assert found.verdict == "safe" and found.ratio == pytest.approx(0.3, rel=0.02)
    assert any("not taken into account: give clip=" in note for note in found.notes)
    run = losses(net, sgd, batch, 50)
    assert all(later < earlier for earlier, later in pairwise(run))


def test_05_nesterov_switched_on_at_a_heavy_ball_lr() -> None:
    net, batch = tanh_net(), digits()

    def heavy(params: Any, lr: float, nesterov: bool = False) -> torch.optim.Optimizer:
        return SGD(params, lr=lr, momentum=0.9, nesterov=nesterov)

    lr = 0.8 * limit(net, heavy, batch)
    found = diagnosed(net, heavy(net.parameters(), lr, nesterov=True), batch)
    assert found.verdict == "unstable"
    assert found.ratio == pytest.approx(0.8 * 2.8, rel=0.02)  # 3.8 / 1.357
    (off,) = [change for change in found.changes if change.name == "nesterov off"]
    assert off.ratio == pytest.approx(0.8, rel=0.02) and "Without nesterov" in found.sentence


def test_06_a_saddle_at_a_symmetric_start() -> None:
    net, batch = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)), digits()
    for p in net.parameters():
        nn.init.zeros_(p)
    sgd = SGD(net.parameters(), lr=0.1)
    found = diagnosed(net, sgd, batch)
    assert found.verdict == "saddle"
    assert found.lowest is not None and float(found.lowest.values[0]) < -0.01
    assert found.zero_gradient_share > 0.9
    losses(net, sgd, batch, 50)
    assert not bool(net[0].weight.any())  # it stays where it is


def test_07_dead_relus() -> None:
    torch.manual_seed(0)
    net, batch = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)), digits()
    nn.init.constant_(net[0].bias, -100.0)
    for optimizer in (SGD(net.parameters(), lr=0.1), torch.optim.Adam(net.parameters())):
        found = diagnosed(net, optimizer, batch)
        assert found.verdict == "dead" and "irrelevant" in found.sentence
        assert found.zero_gradient_share == pytest.approx(1 - 10 / sum(p.numel() for p in net.parameters()))


class Times(nn.Module):
    def __init__(self, layer: nn.Linear, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = layer, factor
        with torch.no_grad():
            for p in layer.parameters():
                p /= factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.layer(x)


def test_08_one_layer_scaled_thirty_times() -> None:
    net, batch = tanh_net(), digits()
    lr = 0.3 * limit(net, SGD, batch)
    assert diagnosed(net, SGD(net.parameters(), lr=lr), batch).verdict == "safe"
    scaled = nn.Sequential(*net[:2], Times(net[2], 30.0), *net[3:])  # the same function
    found = diagnosed(scaled, SGD(scaled.parameters(), lr=lr), batch)
    assert found.verdict == "warm-up" and found.ratio is not None and found.ratio > 50 and found.direction is not None
    run = losses(scaled, SGD(scaled.parameters(), lr=lr), batch, 400)  # it rises, and finds to where the lr is stable
    assert max(run) > 2 * run[0] and run[-1] < 0.9 * run[0] and all(math.isfinite(value) for value in run)
    assert found.shares["2.layer.weight"] + found.shares["2.layer.bias"] > 0.8
    assert found.direction.origin == "curvature" and "in 2.layer" in found.direction.where


def test_09_raw_inputs() -> None:
    batch = digits(scale=16 / 255)
    linear = nn.Sequential(nn.Linear(64, 10))
    assert diagnosed(linear, SGD(linear.parameters(), lr=0.1), digits()).verdict == "safe"
    found = diagnosed(linear, SGD(linear.parameters(), lr=0.1), batch)
    assert found.verdict == "unstable" and found.ratio is not None and found.ratio > 1000
    assert found.shares["0.weight"] > 0.99


def test_10_adam_that_needs_a_warm_up() -> None:
    net, batch = tanh_net(), digits()
    edge = limit(net, torch.optim.Adam, batch)
    mild = diagnosed(net, torch.optim.Adam(net.parameters(), lr=3 * edge), batch)
    assert mild.verdict == "safe" and mild.play is not None and not mild.play.rises  # so young a limit means little
    assert (
        "once second moments have settled" in mild.sentence
        and "now, while they are young, it is 3 times it" in mild.sentence
    )
    adam = torch.optim.Adam(net.parameters(), lr=30 * edge)
    found = diagnosed(net, adam, batch)
    assert found.verdict == "warm-up" and not found.failing
    assert found.ratio == pytest.approx(30, rel=0.02)
    run = losses(net, adam, batch, 20)
    assert max(run) > run[0]  # without one the loss rises first
    assert found.play is not None and {0, 1, 2, 5} <= set(found.play.points)
    early = [p for p in found.play.points if p < 20]
    assert [run[p] for p in early] == pytest.approx(found.play.losses[: len(early)], rel=1e-3)
    fresh = tanh_net()
    gentle = torch.optim.Adam(fresh.parameters(), lr=0.0)
    seen = []
    for step in range(20):
        gentle.param_groups[0]["lr"] = adam.param_groups[0]["lr"] * (step + 1) / 100
        seen += losses(fresh, gentle, batch, 1)
    assert max(seen) == seen[0]


def test_11_a_fresh_adam_has_a_unit() -> None:
    net, batch = tanh_net(), digits()
    adam = torch.optim.Adam(net.parameters(), lr=1e-4)
    found = diagnosed(net, adam, batch)
    assert found.verdict == "safe" and found.limit is not None and found.limit.fresh
    assert found.ratio is not None and 1e-3 < found.ratio < 1
    blind = 1e-4 * (found.limit.sharpness or 0.0) / 1e-8 / 38  # what P = eps would read
    assert blind > 1000
    assert any("fresh optimiser" in note for note in found.notes)


@pytest.mark.slow
def test_12_adam_above_its_frozen_limit_adapts() -> None:
    net, batch = tanh_net(), digits()
    adam = torch.optim.Adam(net.parameters(), lr=3e-3, betas=(0.9, 0.95))
    losses(net, adam, batch, 300)
    adam.param_groups[0]["lr"] *= 4
    found = diagnosed(net, adam, batch)
    assert found.verdict == "adapts" and not found.failing and "no prediction of divergence" in found.sentence
    assert found.ratio is not None and found.ratio > 2 and "preconditioner frozen" in found.assumption
    run = losses(net, adam, batch, 300)
    assert run[-1] < run[0] and all(math.isfinite(value) for value in run)


@pytest.mark.slow
def test_13_batchnorm_at_the_edge() -> None:
    net, batch = tanh_net(nn.BatchNorm1d(16)), digits()
    sgd = SGD(net.parameters(), lr=0.5)
    losses(net, sgd, batch, 800)
    found = diagnosed(net, sgd, batch)
    assert found.verdict == "edge"
    assert found.ratio == pytest.approx(1, abs=0.1)


def test_14_two_groups_stable_alone_and_unstable_together() -> None:
    a, b = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    net = nn.ParameterList([a, b])

    def coupled(net: Any, _: Tensor) -> Tensor:
        x, y = net
        return (0.5 * (x * x + y * y) + 0.9 * x * y).sum()

    sgd = SGD([{"params": [a]}, {"params": [b]}], lr=1.5)
    found = es.diagnose(es.Objective(net, coupled, torch.zeros(1)), sgd)
    assert found.limit is not None and found.limit.alone == {0: pytest.approx(0.75), 1: pytest.approx(0.75)}
    assert found.verdict == "unstable" and found.ratio == pytest.approx(1.5 * 1.9 / 2, rel=0.01)
    assert "Each group alone would be stable" in found.sentence


def test_15_coupled_decay_sets_the_limit() -> None:
    net, batch = tanh_net(), digits()
    found = diagnosed(net, SGD(net.parameters(), lr=0.1, weight_decay=25.0), batch)
    assert found.verdict == "unstable" and found.direction is not None and found.limit is not None
    assert found.direction.origin == "coupled weight decay" and "coupled weight decay" in found.sentence
    assert found.limit.sharpness is not None
    assert found.ratio == pytest.approx(0.1 * (25 + found.limit.sharpness) / 2, rel=0.02)
    (off,) = [change for change in found.changes if change.name == "decay off"]
    assert off.ratio < 0.5


def test_16_decoupled_decay_above_two() -> None:
    net, batch = tanh_net(), digits()
    found = diagnosed(net, torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=250.0), batch)
    assert found.verdict == "unstable" and "lr * weight_decay is above 2" in found.sentence
    assert found.ratio is not None and found.ratio > 1.25  # lr w / 2, and what the loss adds


def test_17_clipping() -> None:
    net, batch = tanh_net(), digits()
    sgd = SGD(net.parameters(), lr=3 * limit(net, SGD, batch))
    norm = float(
        torch.stack([g.norm() for g in torch.autograd.grad(squares(net, batch), list(net.parameters()))]).norm()
    )
    found = diagnosed(net, sgd, batch, clip=norm / 10)
    assert found.verdict == "clipped" and found.clip == pytest.approx(0.1)
    slow = diagnosed(net, SGD(net.parameters(), lr=0.5 * limit(net, SGD, batch)), batch, clip=norm / 10)
    assert slow.verdict == "safe" and "Clipping shortens the update to 10.0%" in slow.sentence
    loose = diagnosed(net, sgd, batch, clip=10 * norm, quick=True)
    assert loose.verdict == "unstable" and loose.clip == 1
    assert any("clipping at" in note for note in loose.notes)


def test_18_tiny_batches() -> None:
    data = load_digits()
    images, labels = torch.tensor(data.data[:300] / 16, dtype=torch.float32), torch.tensor(data.target[:300])
    net = tanh_net()

    def entropy(net: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    objective, sgd = es.Objective(net, entropy, (images, labels)), SGD(net.parameters(), lr=0.5)
    for _ in range(100):
        sgd.zero_grad()
        entropy(net, (images, labels)).backward()
        sgd.step()
    sgd.param_groups[0]["lr"] = 0.7 * es.limit_now(objective, sgd).max_stable_lr
    tiny = list(zip(images.split(2), labels.split(2), strict=True))
    found = es.diagnose(objective, sgd, train=tiny, batches=12)
    assert found.spread is not None and found.spread.times > 2
    assert found.spread.high > 1.1 and found.spread.samples == (2,) * 12
    assert found.ratio == pytest.approx(0.7, rel=0.02)  # the limit allows it on all the data, the mini-batches do not
    assert found.verdict == "unstable" and "the limit of now allows it" in found.sentence
    lower = float(found.sentence.split("lower the lr to about ")[1].split(":")[0])

    def ends(lr: float) -> float:
        model = copy.deepcopy(net)
        optimizer = SGD(model.parameters(), lr=lr)
        for part in tiny * 2:
            optimizer.zero_grad()
            entropy(model, part).backward()
            optimizer.step()
        return float(entropy(model, (images, labels)).detach())

    start = float(entropy(net, (images, labels)).detach())
    assert ends(sgd.param_groups[0]["lr"]) > 2 * start and ends(lower) <= start


def test_19_lr_zero_in_a_warm_up() -> None:
    net, batch = tanh_net(), digits()
    waiting = diagnosed(net, SGD(net.parameters(), lr=0.0), batch)
    assert waiting.verdict == "waiting" and waiting.ratio is None and "lr = 0" in waiting.reasons["ratio"]
    sgd = SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: min(step / 10, 1.0))
    warming = diagnosed(net, sgd, batch)
    assert scheduler.last_epoch == 0 and warming.verdict == "safe"
    assert warming.ratio == pytest.approx(0.1 / limit(net, SGD, batch), rel=0.01)
    for found in (waiting, warming):
        assert found.max_stable_lr == pytest.approx(limit(net, SGD, batch), rel=0.01)


def test_20_lion_is_judged_by_one_step() -> None:
    net, batch = tanh_net(), digits()
    lion = es.Optimizer(net.parameters(), es.Lion(lr=1e-3))
    found = diagnosed(net, lion, batch)
    assert found.verdict == "one-step" and found.ratio is None and found.critical is not None
    assert "no linear limit" in found.sentence and "one-step" in found.sentence and "signs" in found.reasons["ratio"]
    multiple = found.critical.multiple
    assert multiple is not None and multiple > 1
    for factor, rises in ((0.9, False), (1.1, True)):  # the real step, that much shorter or longer
        other = tanh_net()
        run = losses(other, es.Optimizer(other.parameters(), es.Lion(lr=factor * multiple * 1e-3)), batch, 2)
        assert (run[1] > run[0]) == rises
    muon = torch.optim.Muon([p for p in net.parameters() if p.dim() == 2], lr=0.02)
    part = es.Objective(net, squares, batch, parameters="*.weight")
    assert es.diagnose(part, muon).verdict == "one-step"


def test_21_the_loss_is_nan_already() -> None:
    net, batch = tanh_net(), digits()
    with torch.no_grad():
        net[0].weight[0, 0] = math.nan
    found = diagnosed(net, SGD(net.parameters(), lr=0.1), batch)
    assert found.verdict == "diverged" and found.failing and math.isnan(found.loss)
    net = tanh_net()
    found = es.diagnose(es.Objective(net, lambda net, b: squares(net, b) / 0, batch), SGD(net.parameters(), lr=0.1))
    assert found.verdict == "diverged"


def test_22_nothing_left_to_do() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 10, bias=False)).double()
    images = digits(40)[0].double()
    batch = images, (images @ torch.randn(64, 10).double()).detach()
    with torch.no_grad():
        net[0].weight.copy_(torch.linalg.lstsq(*batch, driver="gelsd").solution.T)
    assert float(squares(net, batch).detach()) < 1e-20
    for optimizer in (SGD(net.parameters(), lr=0.1), torch.optim.Adam(net.parameters())):
        found = diagnosed(net, optimizer, batch)
        assert found.verdict == "done"
    with torch.no_grad():
        net[0].weight.copy_(torch.zeros(10, 64))
    assert diagnosed(net, SGD(net.parameters(), lr=0.1), batch).verdict != "done"
