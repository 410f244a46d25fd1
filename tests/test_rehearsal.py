"""Training tried on copies: the lrs are those of torch's own schedulers, the runs those of a plain loop."""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler as torchs

import eigenstep as es
from eigenstep.errors import EigenstepError
from eigenstep.rehearsal import Budget, Rehearsal, Schedule, Stream, read_schedule
from eigenstep.rehearsal.attach import attach

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
BATCHES = [(X[i : i + 6], X[i : i + 6].sum(1, keepdim=True).sin()) for i in range(0, 24, 6)]


def model_of(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    return torch.optim.SGD([{"params": [first]}, {"params": rest, "lr": lr / 4}], lr=lr, momentum=0.9)


def lrs(optimizer: torch.optim.Optimizer, scheduler: torchs.LRScheduler, updates: int) -> Iterator[list[float]]:
    for t in range(updates):
        yield [float(g["lr"]) for g in optimizer.param_groups]
        optimizer.step()
        if t + 1 < updates:
            scheduler.step()


FACTORIES: dict[str, Callable[[torch.optim.Optimizer], torchs.LRScheduler]] = {
    "cosine": lambda o: torchs.CosineAnnealingLR(o, T_max=40, eta_min=0.003),
    "step": functools.partial(torchs.StepLR, step_size=7, gamma=0.3),
    "milestones": lambda o: torchs.MultiStepLR(o, [5, 11]),
    "one cycle": lambda o: torchs.OneCycleLR(o, max_lr=[0.5, 0.2], total_steps=40),
    "restarts": lambda o: torchs.CosineAnnealingWarmRestarts(o, T_0=9),
    "cyclic": lambda o: torchs.CyclicLR(o, base_lr=0.01, max_lr=0.2, step_size_up=6),
    "warm-up, then exponential": lambda o: torchs.SequentialLR(
        o, [torchs.LinearLR(o, 0.1, total_iters=5), torchs.ExponentialLR(o, 0.97)], [5]
    ),
    "chained": lambda o: torchs.ChainedScheduler([torchs.ConstantLR(o, 0.2, 4), torchs.ExponentialLR(o, 0.9)]),
    "from zero": lambda o: torchs.LambdaLR(o, lambda t: min(t / 8, 1.0) * 0.98**t),
    "polynomial": lambda o: torchs.PolynomialLR(o, total_iters=40, power=2.0),
}


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("how", ["factory", "attached"])
def test_the_shape_is_that_of_torchs_scheduler_and_comes_back_at_another_peak(name: str, how: str) -> None:
    make = FACTORIES[name]
    own = sgd(model_of())
    expected = list(lrs(own, make(own), 40))
    peak = max(each[0] for each in expected)
    asked = sgd(model_of())
    kept = make(asked) if how == "attached" else None
    before = copy.deepcopy(asked.state_dict())
    shape = read_schedule("t", asked, "constant" if kept is not None else make, 0, 40)
    assert asked.state_dict() == before
    for t, each in enumerate(expected):
        assert [peak * f for f in shape.factors[t]] == pytest.approx(each, rel=1e-9, abs=1e-15)
    scheduler = attach("t", asked, shape, 3 * peak)
    assert scheduler is kept or how == "factory"
    for each, now in zip(expected, lrs(asked, scheduler, 40), strict=True):
        assert now == pytest.approx([3 * lr for lr in each], rel=1e-6, abs=1e-12)


def test_a_scheduler_that_moves_momentum_is_rehearsed_with_it() -> None:
    own, twin = sgd(model_of()), sgd(model_of())
    make = FACTORIES["one cycle"]
    shape = read_schedule("t", own, make, 0, 40)
    scheduler = make(twin)
    for t in range(40):
        shape.put(own, 0.5, t)
        assert [g["momentum"] for g in own.param_groups] == [g["momentum"] for g in twin.param_groups]
        twin.step()
        if t < 39:
            scheduler.step()


@given(st.sampled_from(["constant", "cosine", "linear", "wsd"]), st.integers(2, 300), st.floats(0, 0.9))
def test_named_shapes_peak_at_one_rise_and_then_never_rise(name: str, horizon: int, warmup: float) -> None:
    shape = read_schedule("t", sgd(model_of()), name, warmup, horizon)
    told = shape.shape()
    assert len(told) == horizon
    assert max(told) == told[shape.warmup] == 1
    assert all(a < b for a, b in itertools.pairwise(told[: shape.warmup + 1]))
    assert all(a >= b for a, b in itertools.pairwise(told[shape.warmup :]))
    assert min(told) > 0
    assert shape.squeezed(horizon).shape() == told


def test_the_named_cosine_is_torchs() -> None:
    own = sgd(model_of())
    expected = list(lrs(own, torchs.CosineAnnealingLR(own, T_max=50), 50))
    shape = read_schedule("t", sgd(model_of()), "cosine", 0, 50)
    assert [f[0] for f in shape.factors] == pytest.approx([each[0] / 0.1 for each in expected], abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.002, 30.0])
def test_a_function_counts_by_its_shape(scale: float) -> None:
    shape = read_schedule("t", sgd(model_of()), lambda t: scale * min((t + 1) ** -0.5, (t + 1) * 10**-1.5), 0, 100)
    assert shape.shape()[9] == max(shape.shape()) == 1
    optimizer = sgd(model_of())
    scheduler = attach("t", optimizer, shape, 0.7)
    for t, now in enumerate(lrs(optimizer, scheduler, 100)):
        assert now == pytest.approx([0.7 * shape.shape()[t], 0.175 * shape.shape()[t]])


class Looks(torchs.LRScheduler):
    """A scheduler whose lr hangs on a model."""

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        self.model = model
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [float(next(self.model.parameters()).abs().sum()) for _ in self.optimizer.param_groups]


@pytest.mark.parametrize(
    ("schedule", "warmup", "said"),
    [
        ("cosin", 0, "did you mean 'cosine'"),
        ("cosine", 50, "below the horizon, 50"),
        ("cosine", 1.5, "a share of it"),
        ("cosine", True, "warmup=True"),
        (lambda t: -1.0, 0, r"schedule\(0\) gave -1.0"),
        (lambda t: 1 / (t - 7), 0, r"schedule\(0\) gave -0.14"),
        (lambda t: 1 / t, 0, r"schedule\(0\) failed \(ZeroDivisionError"),
        (lambda t: 0.0, 0, "is 0 at every update"),
        (lambda t: "high", 0, "gave str"),
        (lambda t: math.nan, 0, "gave nan"),
        (3.0, 0, "schedule= is float"),
        (FACTORIES["step"], 5, "warmup= beside a torch scheduler"),
        (torchs.ReduceLROnPlateau, 0, "ReduceLROnPlateau depends on the run"),
        (lambda o: Looks(o, nn.Linear(1, 1)), 0, "Looks depends on the run"),
        (lambda o: torchs.OneCycleLR(o, 0.1, total_steps=9), 0, "could not be tried over 50 updates"),
        (lambda o: o.param_groups, 0, "gave list"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_remedy(schedule: Any, warmup: float, said: str) -> None:
    with pytest.raises(EigenstepError, match=said):
        read_schedule("t", sgd(model_of()), schedule, warmup, 50)


def test_two_schedulers_or_another_beside_the_attached_one_are_refused() -> None:
    optimizer = sgd(model_of())
    one = torchs.StepLR(optimizer, 3)
    with pytest.raises(es.InvalidValue, match="StepLR"):
        read_schedule("t", optimizer, "cosine", 0, 50)
    two = torchs.ExponentialLR(optimizer, 0.9)
    with pytest.raises(es.Unsupported, match="ChainedScheduler"):
        read_schedule("t", optimizer, "constant", 0, 50)
    assert one.optimizer is two.optimizer


@pytest.mark.parametrize("name", ["step", "cosine", "warm-up, then exponential"])
def test_the_shape_of_an_attached_scheduler_is_applied_to_another_optimizer(name: str) -> None:
    own, other, plain = sgd(model_of()), sgd(model_of()), sgd(model_of())
    kept = FACTORIES[name](own)
    shape = read_schedule("t", own, "constant", 0, 40)
    expected = list(lrs(plain, FACTORIES[name](plain), 40))
    peak = max(each[0] for each in expected)
    scheduler = attach("t", other, shape, 2 * peak)
    for each, now in zip(expected, lrs(other, scheduler, 40), strict=True):
        assert now == pytest.approx([2 * lr for lr in each], rel=1e-6, abs=1e-12)
    assert own.param_groups[0]["lr"] == expected[0][0]
    assert kept.last_epoch == 0


def test_a_momentum_that_an_attached_scheduler_moves_is_not_made_anew_for_another_optimizer() -> None:
    own, other = sgd(model_of()), sgd(model_of())
    kept = FACTORIES["one cycle"](own)
    shape = read_schedule("t", own, "constant", 0, 40)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(es.InvalidValue, match=r"OneCycleLR moves the momentum too.*peak at 0\.3"):
        attach("t", other, shape, 0.3)
    assert other.state_dict() == before
    assert kept.optimizer is own


def test_an_attached_scheduler_that_is_gone_is_missed_and_schedule_takes_its_place() -> None:
    def built() -> torch.optim.Optimizer:
        optimizer = sgd(model_of())
        torchs.CosineAnnealingLR(optimizer, T_max=40)
        return optimizer

    with pytest.raises(es.InvalidValue, match=r"is gone.*schedule="):
        read_schedule("t", built(), "constant", 0, 40)
    assert read_schedule("t", built(), "cosine", 0, 40).name == "cosine"
    assert read_schedule("t", built(), lambda t: 1.0, 0, 40).constant


def rehearsal(model: nn.Module, optimizer: torch.optim.Optimizer, shape: Schedule, **more: Any) -> Rehearsal:
    objective = es.Objective(model, loss, BATCHES)
    return Rehearsal("t", objective, optimizer, Stream("t", BATCHES, 1e9, 7), Budget(100, None), shape, seed=7, **more)


def clipped(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loop with accumulation over two halves and clipping."""
    optimizer.zero_grad()
    for half in (slice(0, 3), slice(3, 6)):
        value = loss(model, (batch[0][half], batch[1][half])) / 2
        value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return value


@pytest.mark.parametrize("loop", [None, clipped])
def test_a_rehearsal_is_the_users_own_training_bit_for_bit(loop: Any) -> None:
    model, twin = model_of().train(), model_of().train()
    optimizer = sgd(model, 0.3)
    shape = read_schedule("t", optimizer, FACTORIES["one cycle"], 0, 40)
    before = copy.deepcopy(model.state_dict())
    tried = rehearsal(model, optimizer, shape, loop=loop, clip=None if loop else 0.5)
    with tried.session():
        lane = tried.lane(0.25)
        tried.run(lane, 20)
        assert lane.copies is not None
        trained = lane.copies[0]
        other = sgd(twin, 0.3)
        scheduler = torchs.OneCycleLR(other, max_lr=[0.25, 0.1], total_steps=40)
        for t in range(20):
            torch.manual_seed(7 + t)
            if loop is not None:
                loop(twin, other, BATCHES[t % 4])
            else:
                other.zero_grad()
                loss(twin, BATCHES[t % 4]).backward()
                nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
                other.step()
            scheduler.step()
    for mine, plain in zip(trained.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not optimizer.state


def outer_loops(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[Any, str]]:
    def outside(m: nn.Module, o: torch.optim.Optimizer, batch: Any) -> Tensor:
        return clipped(model, optimizer, batch)

    def moves(m: nn.Module, o: torch.optim.Optimizer, batch: Any) -> Tensor:
        o.param_groups[0]["lr"] *= 0.5
        return clipped(m, o, batch)

    def silent(m: nn.Module, o: torch.optim.Optimizer, batch: Any) -> None:
        clipped(m, o, batch)

    return {
        "outside": (outside, "trains your own model"),
        "idle": (idle, "does not train the model"),
        "moves": (moves, "changes the lr"),
        "silent": (silent, "returned NoneType"),
    }


@pytest.mark.parametrize("name", ["outside", "idle", "moves", "silent"])
def test_a_loop_that_does_not_use_its_arguments_is_refused_and_nothing_is_changed(name: str) -> None:
    model = model_of()
    optimizer = sgd(model)
    clipped(model, optimizer, BATCHES[0])
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    groups = list(optimizer.param_groups)
    loop, said = outer_loops(model, optimizer)[name]
    tried = rehearsal(model, optimizer, read_schedule("t", optimizer, "constant", 0, 10), loop=loop)
    with pytest.raises(es.InvalidValue, match=said), tried.session():
        tried.run(tried.lane(0.1), 3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    assert all(mine is was for mine, was in zip(optimizer.param_groups, groups, strict=True))


def idle(m: nn.Module, o: torch.optim.Optimizer, batch: Any) -> Tensor:
    return loss(m, batch)


@pytest.mark.parametrize(("updates", "said"), [(3, "3 calls left"), (40, "32 calls left")])
def test_an_idle_loop_is_refused_after_the_calls_that_show_it(updates: int, said: str) -> None:
    model = model_of()
    optimizer = sgd(model)
    tried = rehearsal(model, optimizer, read_schedule("t", optimizer, "constant", 0, 50), loop=idle)
    with pytest.raises(es.InvalidValue, match=said), tried.session():
        tried.run(tried.lane(0.1), updates)


@pytest.mark.parametrize("every", [1, 4, 16])
def test_a_loop_may_accumulate_gradients_over_its_calls(every: int) -> None:
    model, twin = model_of().eval(), model_of().eval()
    optimizer, other = sgd(model, 0.3), sgd(twin, 0.3)

    def accumulating() -> Callable[..., Tensor]:
        calls = itertools.count(1)

        def loop(m: nn.Module, o: torch.optim.Optimizer, batch: Any) -> Tensor:
            value = loss(m.eval(), batch)
            (value / every).backward()
            if next(calls) % every == 0:
                o.step()
                o.zero_grad()
            return value

        return loop

    shape = read_schedule("t", optimizer, "constant", 0, 50)
    tried = rehearsal(model, optimizer, shape, loop=accumulating())
    with tried.session():
        lane = tried.lane(0.3)
        tried.run(lane, 40)
        assert lane.copies is not None
        trained = lane.copies[0]
    plain = accumulating()
    for t in range(40):
        plain(twin, other, BATCHES[t % 4])
    for mine, p in zip(trained.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, p, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["step", "one cycle", "warm-up, then exponential", "plateau", "by hand", "then fails"])
def test_a_loop_that_moves_the_users_own_scheduler_is_refused_and_it_is_put_back(name: str) -> None:
    model, twin = model_of(), model_of()
    makes: dict[str, Any] = {**FACTORIES, "plateau": functools.partial(torchs.ReduceLROnPlateau, patience=0)}
    optimizer, other = sgd(model), sgd(twin)
    for each in (optimizer, other):
        clipped(model_of(), each, BATCHES[0])
    make = makes.get(name, FACTORIES["step"])
    own, untouched = make(optimizer), make(other)
    shape = read_schedule("t", optimizer, lambda t: 1.0, 0, 50) if name == "plateau" else None

    def loop(m: nn.Module, o: torch.optim.Optimizer, batch: Any) -> Tensor:
        value = clipped(m, o, batch)
        if name == "by hand":
            optimizer.param_groups[1]["lr"] = 7.0
            optimizer.param_groups[0]["new"] = 1
        else:
            optimizer.step()
            own.step(1.0) if name == "plateau" else own.step()
        if name == "then fails":
            raise ValueError("no more data")
        return value

    shape = shape or read_schedule("t", optimizer, "constant", 0, 40)
    tried = rehearsal(model, optimizer, shape, loop=loop)
    error: Any = ValueError if name == "then fails" else es.InvalidValue
    said = "no more data" if name == "then fails" else "own optimizer's schedule"
    with pytest.raises(error, match=said), tried.session():
        tried.run(tried.lane(0.1), 3)
    assert optimizer.state_dict() == other.state_dict()
    assert own.last_epoch == untouched.last_epoch
    for _ in range(30):
        for each, scheduler in ((optimizer, own), (other, untouched)):
            each.step()
            scheduler.step(1.0) if name == "plateau" else scheduler.step()
        assert optimizer.state_dict() == other.state_dict()


def test_gradient_scalers_begin_anew_in_every_lane_and_are_put_back() -> None:
    model = model_of()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
    scaler.scale(torch.ones(()))  # its scale is a tensor from now on
    seen: dict[int, list[float]] = {}

    def loop(m: nn.Module, o: torch.optim.Optimizer, batch: Any) -> Tensor:
        seen.setdefault(id(o), []).append(scaler.get_scale())
        o.zero_grad()
        value = loss(m, batch)
        scaler.scale(value).backward()
        if len(seen[id(o)]) <= 2:  # too large for half precision
            for p in m.parameters():
                p.grad = torch.full_like(p, math.inf)
        scaler.step(o)
        scaler.update()
        return value

    before = scaler.state_dict()
    tried = rehearsal(model, optimizer, read_schedule("t", optimizer, "constant", 0, 50), loop=loop)
    with tried.session():
        first, second = tried.lane(0.1), tried.lane(0.1)
        for until in (7, 20):
            for lane in (first, second):
                tried.run(lane, until)
    assert first.losses == second.losses
    assert scaler.state_dict() == before
    one, other = seen.values()
    assert one == other
    assert one == [2.0**40, 2.0**39] + [2.0 ** (38 + t // 3) for t in range(18)]
