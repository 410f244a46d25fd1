"""StabilityLR leaves alone what trains: bit for bit, a schedule too; tries on copies first, and watches the run."""

import itertools
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from bowl import Bowl, train
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

import eigenstep as es
from eigenstep.stability.trial import TAIL, UPDATES, trial
from eigenstep.training.control.trust import BELOW, LOOK, WAIT

METHODS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=3e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "lion": lambda p: es.Optimizer(p, es.Lion(lr=1e-3)),
}


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def task() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 4, generator=generator)
    y = (x[:, :1] * x[:, 1:2]).sin()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 1))
    return model, list(zip(x.split(24), y.split(24), strict=True))


def rising(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return LambdaLR(optimizer, lambda k: min((k + 1) / 10, 1.0) * math.cos(k / 40))


def trained(
    kind: str, kept: bool, schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None
) -> tuple[list[list[float]], list[Tensor]]:
    model, batches = task()
    optimizer = METHODS[kind](model.parameters())
    scheduler = schedule(optimizer) if schedule is not None else None
    if kept:
        monitor = es.Monitor(es.Objective(model, squares, batches), optimizer, dense=0)
        scheduler = es.StabilityLR(optimizer, monitor, schedule=scheduler)
    lrs = []
    for batch in itertools.islice(itertools.cycle(batches), 30):
        lrs.append([group["lr"] for group in optimizer.param_groups])
        optimizer.zero_grad()
        squares(model, batch).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return lrs, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize(
    ("kind", "schedule"), [*((kind, None) for kind in METHODS), ("momentum", rising), ("adam", rising)]
)
def test_a_run_that_trains_is_left_alone_bit_for_bit(
    kind: str, schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None
) -> None:
    lrs, weights = trained(kind, False, schedule)
    kept_lrs, kept_weights = trained(kind, True, schedule)
    assert kept_lrs == lrs and all(map(torch.equal, weights, kept_weights))


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_a_trial_is_the_plain_loop_on_copies(kind: str) -> None:
    model, batches = task()
    optimizer = METHODS[kind](model.parameters())
    objective = es.Objective(model, squares, batches)
    before = [p.detach().clone() for p in model.parameters()]
    found = trial(objective, optimizer, [0.02])
    assert all(map(torch.equal, before, model.parameters())) and not optimizer.state
    for group in optimizer.param_groups:
        group["lr"] = 0.02
    starts = [float(squares(model, batch).detach()) for batch in batches]
    rises = []
    for k in range(UPDATES):
        optimizer.zero_grad()
        value = squares(model, batches[k % 4])
        rises.append(float(value.detach()) - starts[k % 4])
        value.backward()
        optimizer.step()
    assert found.highest == pytest.approx(max(rises), abs=1e-6) and found.start == pytest.approx(sum(starts) / 4)
    assert found.end == pytest.approx(sum(rises[-TAIL:]) / TAIL, rel=1e-4)


def test_a_trial_that_diverges_is_infinite() -> None:
    model, batches = task()
    objective = es.Objective(model, squares, batches)
    found = trial(objective, torch.optim.SGD(model.parameters(), lr=1.0), [1e9])
    assert math.isinf(found.highest) and math.isinf(found.end)


def kept(
    lr: float, schedule: Callable[[int], float] | None = None, **options: object
) -> tuple[Bowl, torch.optim.Optimizer, es.StabilityLR]:
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    inner = LambdaLR(optimizer, schedule) if schedule is not None else None
    monitor = es.Monitor(es.Objective(model, lambda m, x: m(x), torch.zeros(1)), optimizer, dense=0)
    return model, optimizer, es.StabilityLR(optimizer, monitor, schedule=inner, **options)


@pytest.mark.parametrize(("lr", "expected"), [(0.49, 0.49), (0.6, 0.6 * BELOW[1]), (0.9, 0.9 * BELOW[2]), (2, 0.45)])
def test_what_diverges_is_lowered_to_a_part_that_trains_or_else_to_the_limits_target(
    lr: float, expected: float
) -> None:
    model, optimizer, scheduler = kept(lr)
    assert train(model, optimizer, scheduler, 15) == pytest.approx([expected] * 15, rel=1e-6)


def test_what_was_refused_at_a_sharp_start_is_used_once_it_trains() -> None:
    model, optimizer, scheduler = kept(0.6)
    lrs = train(model, optimizer, scheduler, 3)
    model.scale = 0.5
    lrs += train(model, optimizer, scheduler, 2 * WAIT)
    assert lrs[0] == pytest.approx(0.6 * BELOW[1]) and lrs[-1] == 0.6


def test_a_schedule_that_rises_stops_short_of_where_trials_diverge_and_is_followed_as_it_falls() -> None:
    asked = [0.15, 0.3, 0.45, 0.6, 0.6, 0.6, 0.45, 0.3, 0.15, 0.15]
    lrs = train(*kept(1.0, lambda k: asked[min(k, 9)]), 10)
    assert lrs == pytest.approx([min(lr, 0.3 * 1.41) for lr in asked])  # .3 * 2 is past the limit, .5


def test_a_run_that_fails_where_trials_went_well_is_led_by_the_limit_from_then_on() -> None:
    model, optimizer, scheduler = kept(0.4)
    assert train(model, optimizer, scheduler, 10) == [0.4] * 10
    model.w.data.fill_(1.0)
    model.scale = 100.0  # the limit is .005 now: the loss grows 25,000 times an update
    lrs = train(model, optimizer, scheduler, 60)
    assert lrs[: LOOK - 1] == [0.4] * (LOOK - 1) and 0.001 < max(lrs[LOOK:]) <= 0.9 * 0.005 * (1 + 1e-6)
    highest = float(model().detach())
    train(model, optimizer, scheduler, 100)
    assert float(model().detach()) < highest / 100


def test_where_the_limit_leads_lr_is_halved_while_the_loss_is_back_above_its_first() -> None:
    model, optimizer, scheduler = kept(2.0, target=0.5, every=1, follow=0.0)
    first = float(model().detach())
    train(model, optimizer, scheduler, 10)
    before, after = optimizer.param_groups[0]["lr"], []
    for share in (0.5, 0.9, 1.1, 1.2, 0.9):
        model.w.data.mul_((share * first / float(model().detach())) ** 0.5)
        optimizer.zero_grad()
        optimizer.step()
        scheduler.step()
        after.append(optimizer.param_groups[0]["lr"] / before)
    assert after == pytest.approx([1, 1, 0.5, 0.25, 0.25], rel=1e-6)


def test_a_target_that_is_given_and_an_infinite_lr_are_the_limits_alone() -> None:
    assert kept(0.49, target=0.5)[2].get_last_lr() == [pytest.approx(0.25)]
    assert kept(0.49, max_lr=math.inf)[2].get_last_lr() == [pytest.approx(0.45)]


@pytest.mark.parametrize("lr", [0.6, 2.0])
def test_what_is_tried_and_led_by_the_limit_does_not_depend_on_the_clock(lr: float) -> None:
    def lrs(spent: float) -> list[float]:
        model, optimizer, scheduler = kept(lr)
        scheduler.monitor.cadence.measuring = spent
        first = train(model, optimizer, scheduler, 15)
        model.scale = 0.5
        return first + train(model, optimizer, scheduler, 30)

    assert lrs(-1e9) == lrs(1e9)


def test_it_resumes_with_what_it_trusts() -> None:
    model, optimizer, scheduler = kept(0.6)
    train(model, optimizer, scheduler, 5)
    saved = scheduler.state_dict(), model.w.detach().clone()
    expected = train(model, optimizer, scheduler, 30)
    model, optimizer, scheduler = kept(0.6)
    scheduler.load_state_dict(saved[0])
    model.w.data.copy_(saved[1])
    optimizer.param_groups[0]["lr"] = scheduler.get_last_lr()[0]
    assert train(model, optimizer, scheduler, 30) == expected
