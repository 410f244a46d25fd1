"""StabilityLR: the ratio at its target, a schedule capped and otherwise untouched, resumed, refused; a rescue."""

import itertools
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from bowl import Bowl, train
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

import eigenstep as es
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.training import Monitor, StabilityLR
from eigenstep.training.control.stability_lr import CEILING, RISE


def loss(model: nn.Module, batch: object) -> Tensor:
    return model(batch)


def made(
    lr: float = 100.0, momentum: float = 0.0, **options: object
) -> tuple[Bowl, torch.optim.Optimizer, StabilityLR]:
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    monitor = Monitor(es.Objective(model, loss, torch.zeros(1)), optimizer)
    return model, optimizer, StabilityLR(optimizer, monitor, **options)


def stand(optimizer: torch.optim.Optimizer, scheduler: StabilityLR, updates: int = 1) -> list[float]:
    """Updates without a gradient: the weights hardly move (else another loss there would be refused), lr goes."""
    lrs = []
    for _ in range(updates):
        optimizer.zero_grad()
        optimizer.step()
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].mul_(1 + 1e-9)
        scheduler.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


@pytest.mark.parametrize(("momentum", "edge"), [(0.0, 2 / 4), (0.9, 3.8 / 4)])
def test_the_first_update_already_runs_at_the_target(momentum: float, edge: float) -> None:
    model, optimizer, scheduler = made(momentum=momentum, target=0.6)
    assert scheduler.get_last_lr() == [pytest.approx(0.6 * edge, rel=1e-6)] == [optimizer.param_groups[0]["lr"]]
    assert train(model, optimizer, scheduler, 30) == pytest.approx([0.6 * edge] * 30, rel=1e-6)
    assert [r["stability_ratio"] for r in scheduler.monitor.measured] == pytest.approx(
        [0.6] * len(scheduler.monitor.measured), rel=1e-6
    )
    assert float(model.w.detach().abs().max()) < 1  # at lr = 100 it would be 1e70


def test_a_target_that_is_given_is_never_passed_and_lr_rises_by_a_power_of_the_losss_fall() -> None:
    model, optimizer, scheduler = made(target=0.5, follow=0.25, every=1)
    first = float(model().detach())
    train(model, optimizer, scheduler, 10)
    model.scale = 10.0
    fallen = 0.5 * 2 / 40
    assert stand(optimizer, scheduler, 3) == pytest.approx([fallen] * 3, rel=1e-6)
    model.scale = 0.01
    now = float(model().detach())
    lrs = stand(optimizer, scheduler, 100)
    assert lrs[0] == pytest.approx(fallen * RISE) and lrs[-1] == pytest.approx(fallen * (first / now) ** 0.25)


@pytest.mark.parametrize(("floor", "follow", "rises"), [(10, 0.5, False), (-10, 0.5, True), (-10, 0.0, False)])
def test_where_the_loss_does_not_fall_lr_does_not_rise(floor: float, follow: float, rises: bool) -> None:
    model, optimizer, scheduler = made(target=0.5, follow=follow, every=1)
    before = optimizer.param_groups[0]["lr"]
    model.scale, model.floor = 0.01, floor
    assert (stand(optimizer, scheduler, 5)[-1] > before) == rises


@pytest.mark.parametrize(("momentum", "usual", "edge"), [(0.0, 0.9, 2.0), (0.9, 0.4, 3.8)])
def test_by_default_a_network_may_stay_a_while_above_the_target_and_below_the_ceiling(
    momentum: float, usual: float, edge: float
) -> None:
    model, optimizer, scheduler = made(momentum=momentum, every=1)
    before = optimizer.param_groups[0]["lr"]
    assert before == pytest.approx(usual * edge / 4, rel=1e-6)
    model.scale = 1.5
    expected = [max(before * 0.99 ** (k + 1), before / 1.5) for k in range(60)]
    assert stand(optimizer, scheduler, 60) == pytest.approx(expected, rel=1e-6)
    model.scale = 10.0
    assert stand(optimizer, scheduler) == pytest.approx([before / 10 * CEILING], rel=1e-6)


def test_where_the_quadratic_ends_early_it_warms_up_as_the_loss_falls() -> None:
    model = Bowl()
    model.scale, model.quartic = 0.1, 1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    monitor = Monitor(es.Objective(model, loss, torch.zeros(1)), optimizer)
    scheduler = StabilityLR(optimizer, monitor, target=0.9)
    edge, first = monitor.probe.last.max_stable_lr, optimizer.param_groups[0]["lr"]
    halvings = math.log2(0.9 * edge / first)
    assert 2 <= halvings <= 5 and halvings == pytest.approx(round(halvings), abs=1e-9)
    lrs = train(model, optimizer, scheduler, 30)
    assert all(1 - 1e-9 <= b / a <= RISE * (1 + 1e-9) for a, b in itertools.pairwise(lrs))
    assert lrs[-1] > 0.9 * edge


def test_an_adaptive_methods_limit_counts_as_half_its_critical_lr_where_second_moments_are_tiny() -> None:
    model = Bowl()
    optimizer = torch.optim.Adam(model.parameters(), lr=10.0)
    model().backward()
    optimizer.step()
    optimizer.state[model.w]["exp_avg_sq"][2] = 1e-14  # as of a unit that was dead: the edge is there, far below
    optimizer.state[model.w]["exp_avg"][2] = 0.0
    with torch.no_grad():
        model.w.copy_(torch.tensor([1.0, 1.0, 1e-9]))
    monitor = Monitor(es.Objective(model, loss, torch.zeros(1)), optimizer)
    scheduler = StabilityLR(optimizer, monitor, target=0.4)
    edge, critical = monitor.probe.last.max_stable_lr, monitor.probe.newest.critical.lr
    assert 100 * edge < critical
    train(model, optimizer, scheduler, 20)
    assert 0.4 * edge < 0.4 * critical / 2 / 32 <= optimizer.param_groups[0]["lr"]


def test_a_method_without_a_limit_is_held_by_its_critical_lr() -> None:
    model = Bowl()
    optimizer = es.Optimizer(model.parameters(), es.Lion(lr=5.0))
    monitor = Monitor(es.Objective(model, loss, torch.zeros(1)), optimizer)
    critical = es.critical_sharpness(monitor.objective, optimizer).lr
    assert critical == pytest.approx(2.0, rel=0.01)  # every weight steps from 1 by lr: the loss is as it was at -1
    scheduler = StabilityLR(optimizer, monitor, total_steps=100)
    assert scheduler.get_last_lr() == [pytest.approx(0.4 * critical / 2, rel=0.2)]
    lrs = train(model, optimizer, scheduler, 100)
    assert float(model().detach()) < 1e-3 and max(lrs) <= 1
    assert all(r["critical_lr"] > 0 and r["stability_ratio"] is None for r in monitor.measured[:1])


def test_what_is_asked_for_is_left_alone_below_the_edge() -> None:
    assert made(lr=0.1)[2].get_last_lr() == [0.1]
    assert made(lr=0.1, max_lr=0.3, target=0.9)[2].get_last_lr() == [0.3]
    assert made(lr=0.1, max_lr=math.inf, target=0.9)[2].get_last_lr() == [pytest.approx(0.45)]


def test_a_schedule_is_capped_and_stepped_with_its_own_lr() -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> CosineAnnealingLR:
        return CosineAnnealingLR(optimizer, 20)  # a recursive one: it would go on from a capped lr

    model, alone = Bowl(), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference, free = schedule(alone), []
    for _ in range(20):
        free.append(alone.param_groups[0]["lr"])
        alone.step()
        reference.step()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    monitor = Monitor(es.Objective(model, loss, torch.zeros(1)), optimizer)
    scheduler = StabilityLR(optimizer, monitor, target=0.8, schedule=schedule(optimizer))
    lrs = train(model, optimizer, scheduler, 20)
    assert lrs == pytest.approx([min(lr, 0.4) for lr in free], rel=1e-6)
    assert lrs[0] == pytest.approx(0.4) and lrs[-1] == free[-1] < 0.01


def test_a_warm_up_from_zero_is_a_schedule_too_and_groups_keep_their_ratios() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD([{"params": [model.weight], "lr": 8.0}, {"params": [model.bias], "lr": 2.0}])
    schedule = LambdaLR(optimizer, lambda k: k / 5)
    monitor = Monitor(es.Objective(model, lambda m, x: (m(x) ** 2).mean(), torch.eye(3)), optimizer)
    scheduler = StabilityLR(optimizer, monitor, target=0.7, schedule=schedule)
    seen = [scheduler.get_last_lr()]
    for _ in range(6):
        optimizer.step()
        scheduler.step()
        seen.append(scheduler.get_last_lr())
    assert seen[0] == [0.0, 0.0]
    assert all(a == pytest.approx(4 * b) for a, b in seen)
    edge = monitor.measured[-1]["max_stable_lr"]
    assert seen[-1][0] == pytest.approx(0.7 * edge, rel=1e-4) and seen[-1][0] < 8


def test_over_total_steps_it_ends_at_zero() -> None:
    model, optimizer, scheduler = made(target=0.8, total_steps=50)
    lrs = [lr / (0.8 * 0.5) for lr in train(model, optimizer, scheduler, 50)]
    assert lrs == pytest.approx([min(1.0, (1 - k / 50) / 0.4) for k in range(50)], rel=1e-6)
    assert optimizer.param_groups[0]["lr"] == 0


def test_it_resumes_where_it_was_saved() -> None:
    model, optimizer, scheduler = made(target=0.5, total_steps=60)
    train(model, optimizer, scheduler, 30)
    saved = [scheduler.state_dict(), optimizer.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}]
    expected = train(model, optimizer, scheduler, 20)
    model, optimizer, scheduler = made(target=0.5, total_steps=60)
    model.load_state_dict(saved[2])
    optimizer.load_state_dict(saved[1])
    scheduler.load_state_dict(saved[0])
    assert train(model, optimizer, scheduler, 20) == pytest.approx(expected, rel=1e-9)


def test_each_measurement_is_recorded_once() -> None:
    model, optimizer, scheduler = made(target=0.5)
    train(model, optimizer, scheduler, 25)
    measured = scheduler.monitor.measured
    assert [r["step"] for r in measured[:20]] == list(range(1, 21))
    assert scheduler.monitor.probe.count <= len(measured) + 1  # the one for the update to come, not taken yet


def test_a_run_does_not_depend_on_the_clock() -> None:
    def lrs(spent: float) -> list[float]:
        model, optimizer, scheduler = made(target=0.5, follow=2.0)
        scheduler.monitor.cadence.measuring = spent
        first = train(model, optimizer, scheduler, 30)
        model.scale = 0.01  # lr rises at once, by half in three updates, which calls for measurements in between
        return first + train(model, optimizer, scheduler, 40) + [r["step"] for r in scheduler.monitor.measured]

    assert lrs(-1e9) == lrs(1e9)  # seconds of the budget spent before: it counts neither way


def test_mistakes_are_refused() -> None:
    for wrong in (
        {"target": -1.0},
        {"target": math.nan},
        {"every": 0},
        {"follow": -1.0},
        {"target": 0.5, "ceiling": 0.4},
        {"max_lr": -1.0},
    ):
        with pytest.raises(InvalidValue):
            made(**wrong)
    for wrong in ({"max_lr": [1.0, 2.0]}, {"total_steps": 0}):
        with pytest.raises(InvalidValue):
            made(**wrong)
    with pytest.raises(InvalidValue, match="lr is 0"):
        made(lr=0.0)
    model, optimizer, scheduler = made()
    other = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(InvalidValue, match="this very optimizer"):
        StabilityLR(other, scheduler.monitor)
    with pytest.raises(InvalidValue, match="schedule or max_lr"):
        StabilityLR(optimizer, scheduler.monitor, max_lr=1.0, schedule=CosineAnnealingLR(optimizer, 5))
    flat = Bowl()
    flat.scale = 0.0
    lion = es.Optimizer(flat.parameters(), es.Lion(lr=1e-3))
    with pytest.raises(Unsupported, match=r"StabilityLR.*lion"):
        StabilityLR(lion, Monitor(es.Objective(flat, loss, torch.zeros(1)), lion))


WILD: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=20.0),
    "momentum": lambda p: torch.optim.SGD(p, lr=20.0, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=20.0, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=5.0),
    "adamw": lambda p: torch.optim.AdamW(p, lr=5.0, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=5.0),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=50.0),
    "lion": lambda p: es.Optimizer(p, es.Lion(lr=5.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WILD)
def test_a_network_started_far_above_the_edge_is_rescued(kind: str) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

    def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def final(rescue: bool) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        optimizer = WILD[kind](model.parameters())
        scheduler = None
        if rescue:
            monitor = Monitor(es.Objective(model, cross_entropy, (x[:256], y[:256])), optimizer)
            scheduler = StabilityLR(optimizer, monitor, total_steps=300)
        for _ in range(300):
            rows = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            cross_entropy(model, (x[rows], y[rows])).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        with torch.no_grad():
            return float(cross_entropy(model, (x, y)))

    assert final(rescue=True) < 0.5
    assert not final(rescue=False) < 2
