"""Every rule: the steps of torch or of its formula, pure, linear where it says so, lanes alike; frozen, checked."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import eigenstep as es

H = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
Path = Callable[[int], list[Tensor]]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)  # torch's NAdam keeps its product of momenta in the default dtype
    yield
    torch.set_default_dtype(torch.float32)


def gradient(x: Tensor) -> Tensor:
    return H @ x + 0.3


def by_torch(make: Callable[[Any], torch.optim.Optimizer]) -> Path:
    def path(updates: int) -> list[Tensor]:
        x = START.clone().requires_grad_()
        optimizer, points = make([x]), []
        for _ in range(updates):
            x.grad = gradient(x.detach())
            optimizer.step()
            points.append(x.detach().clone())
        return points

    return path


def written_out(update: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Path:
    """A method with one memory m, 0 at first: update(x, g, m) gives the next x and m."""

    def path(updates: int) -> list[Tensor]:
        x, m, points = START, torch.zeros(3, dtype=torch.float64), []
        for _ in range(updates):
            x, m = update(x, gradient(x), m)
            points.append(x)
        return points

    return path


def heavy_ball(x: Tensor, g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    m = 0.8 * m - 0.05 * (g + 0.1 * x)
    return x + m, m


def ema(x: Tensor, g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    m = 0.8 * m + 0.2 * (g + 0.1 * x)
    return x - 0.05 * m, m


def lion(x: Tensor, g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    return x * (1 - 0.05 * 0.1) - 0.05 * (0.8 * m + 0.2 * g).sign(), 0.95 * m + 0.05 * g


ON = {"lr": 0.05, "weight_decay": 0.1}
O = torch.optim  # noqa: E741
EVERY: dict[str, tuple[es.Rule, Path]] = {
    "gradient-descent": (es.GradientDescent(**ON), by_torch(lambda p: O.SGD(p, **ON))),
    "heavy-ball": (es.HeavyBall(**ON, momentum=0.8), written_out(heavy_ball)),
    "momentum": (
        es.Momentum(**ON, momentum=0.8, dampening=0.3),
        by_torch(lambda p: O.SGD(p, **ON, momentum=0.8, dampening=0.3)),
    ),
    "ema-momentum": (es.EMAMomentum(**ON, momentum=0.8), written_out(ema)),
    "nesterov": (es.Nesterov(**ON, momentum=0.8), by_torch(lambda p: O.SGD(p, **ON, momentum=0.8, nesterov=True))),
    "adagrad": (
        es.AdaGrad(**ON, lr_decay=0.1, initial_accumulator_value=0.2),
        by_torch(lambda p: O.Adagrad(p, **ON, lr_decay=0.1, initial_accumulator_value=0.2)),
    ),
    "rmsprop": (
        es.RMSProp(**ON, alpha=0.9, momentum=0.5, centered=True, eps=1e-3),
        by_torch(lambda p: O.RMSprop(p, **ON, alpha=0.9, momentum=0.5, centered=True, eps=1e-3)),
    ),
    "adam": (es.Adam(**ON, amsgrad=True), by_torch(lambda p: O.Adam(p, **ON, amsgrad=True))),
    "adamw": (es.AdamW(**ON), by_torch(lambda p: O.AdamW(p, **ON))),
    "adamax": (es.Adamax(**ON), by_torch(lambda p: O.Adamax(p, **ON))),
    "nadam": (es.NAdam(**ON), by_torch(lambda p: O.NAdam(p, **ON))),
    "radam": (es.RAdam(**ON, betas=(0.9, 0.95)), by_torch(lambda p: O.RAdam(p, **ON, betas=(0.9, 0.95)))),
    "sign-descent": (es.SignDescent(lr=0.05), written_out(lambda x, g, m: (x - 0.05 * g.sign(), m))),
    "lion": (es.Lion(**ON, betas=(0.8, 0.95)), written_out(lion)),
}
LINEAR = [name for name, (rule, _) in EVERY.items() if isinstance(rule, es.LinearRule)]


def run(rule: es.Rule, x: Tensor, updates: int) -> list[Tensor]:
    """Plain steps, each of which leaves what it is given."""
    state, points = rule.init(x), []
    for t in range(1, updates + 1):
        given = [x, grad := gradient(x.T).T if x.dim() > 1 else gradient(x), *state.buffers, *state.scales]
        before = [part.clone() for part in given]
        x, state = rule.step(x, grad, state, t)
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
        points.append(x)
    return points


def test_no_rule_is_left_out() -> None:
    assert {name: type(rule) for name, (rule, _) in EVERY.items()} == es.RULES


@pytest.mark.parametrize("name", EVERY)
def test_its_steps_are_those_of_torch_or_of_its_formula(name: str) -> None:
    rule, path = EVERY[name]
    for ours, theirs in zip(run(rule, START, 20), path(20), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", EVERY)
def test_its_state_is_named_and_shaped_like_the_point(name: str) -> None:
    rule, _ = EVERY[name]
    for dtype in (torch.float32, torch.float64):
        x = START.to(dtype).expand(2, 3)
        state = rule.init(x)
        for _ in range(2):
            for names, parts in ((rule.buffer_names, state.buffers), (rule.scale_names, state.scales)):
                assert len(names) == len(parts) == len(set(names))
                assert all(part.shape == x.shape and part.dtype == dtype for part in parts)
            x, state = rule.step(x, torch.ones_like(x), state, 1)
            assert x.dtype == dtype and rule.iterate(x, state).shape == x.shape
    assert rule.adaptive is bool(rule.scale_names)


@pytest.mark.parametrize("name", EVERY)
def test_lanes_are_their_single_rules(name: str) -> None:
    rule, _ = EVERY[name]
    lr = torch.tensor([0.0, 0.01, 0.05], dtype=torch.float64)
    lanes = rule.replace(lr=lr)
    assert lanes.lanes == (3,) and rule.lanes == ()
    x = torch.stack([START, START + 1, -START])
    together = run(lanes.columns(x), x, 12)
    for i in range(3):
        for point, alone in zip(together, run(rule.replace(lr=float(lr[i])), x[i], 12), strict=True):
            torch.testing.assert_close(point[i], alone, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", LINEAR)
def test_it_moves_linearly_with_coefficients_that_come_to_a_finite_limit(name: str) -> None:
    rule: Any = EVERY[name][0]
    late = rule.coefficients(None)
    assert all(math.isfinite(c) for c in late)
    assert rule.coefficients(10**6) == pytest.approx(late, rel=1e-3, abs=1e-3)
    count, unit = 2 + len(rule.buffer_names), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    one, other = torch.randn(2, count, 3, dtype=torch.float64)

    def move(parts: Tensor, c: Any) -> Tensor:
        x, buffers = rule.move(parts[0], parts[1], unit, tuple(parts[2:]), c)
        return torch.stack([x, *buffers])

    for c in (rule.coefficients(1), rule.coefficients(7), late):
        torch.testing.assert_close(move(2 * one - 3 * other, c), 2 * move(one, c) - 3 * move(other, c))


@pytest.mark.parametrize("name", LINEAR)
def test_its_step_is_couple_scale_and_move(name: str) -> None:
    rule: Any = EVERY[name][0]
    x, state = START, rule.init(START)
    for t in range(1, 6):
        grad = rule.couple(x, gradient(x))
        unit, scales = rule.scale(grad, state.scales, t)
        c, _ = rule.carry(state.carried, t)
        moved, buffers = rule.move(x, grad, unit, state.buffers, c)
        assert c == pytest.approx(rule.coefficients(t), rel=1e-12)
        x, state = rule.step(x, gradient(x), state, t)
        found = (*state.buffers, *state.scales, x)
        assert all(torch.equal(a, b) for a, b in zip(found, (*buffers, *scales, moved), strict=True))
    with pytest.raises(es.InvalidValue, match="t=0 must be at least 1"):
        rule.step(START, START, rule.init(START), 0)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_frozen_and_refuses_values_out_of_range(name: str) -> None:
    rule, _ = EVERY[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.lr = 0.5  # type: ignore[misc]
    assert rule.replace(lr=0.5).lr == 0.5 and rule.lr == 0.05 and rule.replace(lr=0.05) == rule
    for field in dataclasses.fields(rule):
        if isinstance(field.default, bool):
            bad: list[Any] = [1, "yes", None]
        elif field.name == "betas":
            bad = [(1.0, 0.9), (0.9, -0.1), (0.9,), 0.9, (math.nan, 0.9)]
        else:
            bad = [math.nan, math.inf, "a", True, torch.tensor([0.1, math.nan])]
            bad += [] if field.name == "dampening" else [-1.0]  # torch sets that one no range
        for value in bad:
            with pytest.raises(es.InvalidValue, match=field.name):
                rule.replace(**{field.name: value})
    with pytest.raises(es.UnknownName, match="hyperparameter 'nonsense' does not exist: valid are lr"):
        type(rule)(nonsense=0.1)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in LINEAR])
def test_what_is_not_linear_has_no_exact_limit(name: str) -> None:
    with pytest.raises(es.Unsupported, match="not linear"):
        es.max_stable_lr(EVERY[name][0], 1.0)
