"""Stability limits read off each rule's own step, against closed forms and against the real optimisers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import eigenstep as es
from eigenstep.rules import LinearRule, Rule
from eigenstep.theory import (
    frozen_limit,
    is_oscillating,
    is_stable,
    iteration_matrix,
    largest_stable_eigenvalue,
    max_stable_lr,
    radii,
    spectral_radius,
    stability_region,
)

betas = st.floats(0.0, 0.99)
sharpnesses = st.floats(1e-4, 1e4)
decays = st.floats(0.0, 10.0)

# Limit of lr * lambda (lr * a for adaptive rules), with beta the momentum or first beta.
CLOSED: dict[str, tuple[Callable[[float], Rule], Callable[[float], float]]] = {
    "gradient descent": (lambda b: es.GradientDescent(), lambda b: 2),
    "heavy ball": (lambda b: es.HeavyBall(momentum=b), lambda b: 2 * (1 + b)),
    "torch momentum": (lambda b: es.Momentum(momentum=b), lambda b: 2 * (1 + b)),
    "EMA momentum": (lambda b: es.EMAMomentum(momentum=b), lambda b: 2 * (1 + b) / (1 - b)),
    "Nesterov": (lambda b: es.Nesterov(momentum=b), lambda b: 2 * (1 + b) / (1 + 2 * b)),
    "RMSProp": (lambda b: es.RMSProp(), lambda b: 2),
    "RMSProp with momentum": (lambda b: es.RMSProp(momentum=b), lambda b: 2 * (1 + b)),
    "Adam": (lambda b: es.Adam(betas=(b, 0.999)), lambda b: 2 * (1 + b) / (1 - b)),
    "AMSGrad": (lambda b: es.Adam(betas=(b, 0.999), amsgrad=True), lambda b: 2 * (1 + b) / (1 - b)),
    "Adamax": (lambda b: es.Adamax(betas=(b, 0.999)), lambda b: 2 * (1 + b) / (1 - b)),
    "RAdam, late": (lambda b: es.RAdam(betas=(b, 0.999)), lambda b: 2 * (1 + b) / (1 - b)),
    "NAdam, late": (lambda b: es.NAdam(betas=(b, 0.999)), lambda b: 2 * (1 + b) / (1 + b - 2 * b * b)),
}


@pytest.mark.parametrize("name", CLOSED)
@given(beta=betas, sharpness=sharpnesses)
def test_limits_equal_their_closed_forms(name: str, beta: float, sharpness: float) -> None:
    make, limit = CLOSED[name]
    assert max_stable_lr(make(beta), sharpness) == pytest.approx(limit(beta) / sharpness, rel=1e-12)


@given(beta=betas, sharpness=sharpnesses, w=decays)
def test_coupled_decay_adds_to_the_eigenvalue(beta: float, sharpness: float, w: float) -> None:
    for rule in (es.GradientDescent(), es.HeavyBall(momentum=beta), es.Nesterov(momentum=beta)):
        plain = max_stable_lr(rule, sharpness)
        assert max_stable_lr(rule.replace(weight_decay=w), sharpness) == pytest.approx(
            plain * sharpness / (sharpness + w), rel=1e-10
        )


@given(beta=betas, sharpness=sharpnesses, w=decays)
def test_decoupled_decay_of_heavy_ball_and_adamw(beta: float, sharpness: float, w: float) -> None:
    ball = es.HeavyBall(momentum=beta, weight_decay=w, decoupled=True)
    expected = 2 * (1 + beta) / (1 + (1 + beta) * w / sharpness) / sharpness
    assert max_stable_lr(ball, sharpness) == pytest.approx(expected, rel=1e-10)
    gain = (1 + beta) / (1 - beta)  # lr a < gain (2 - lr w), solved for lr
    adamw = es.AdamW(betas=(beta, 0.999), weight_decay=w)
    assert max_stable_lr(adamw, sharpness) == pytest.approx(2 * gain / (sharpness + gain * w), rel=1e-10)


def test_adaptive_coupled_decay_is_in_the_preconditioned_matrix() -> None:
    hessian, unit, w = torch.tensor([1.0, 100.0]).double(), torch.tensor([1e-3, 1.0], dtype=torch.float64), 1.0
    found = es.predict(es.RMSProp(lr=1e-9, weight_decay=w), es.Spectrum.from_eigenvalues(hessian), unit=unit)
    assert found.max_stable_lr is not None
    assert 2 / found.max_stable_lr == pytest.approx(2000.0, rel=1e-12)


TRACE_DET: dict[str, tuple[Rule, Callable[[float], tuple[float, float]]]] = {
    "heavy ball": (es.HeavyBall(lr=0.1, momentum=0.8), lambda h: (1.8 - h, 0.8)),
    "EMA": (es.EMAMomentum(lr=0.1, momentum=0.8), lambda h: (1.8 - 0.2 * h, 0.8)),
    "Nesterov": (es.Nesterov(lr=0.1, momentum=0.8), lambda h: (1.8 * (1 - h), 0.8 * (1 - h))),
    "heavy ball, decoupled": (
        es.HeavyBall(lr=0.1, momentum=0.8, weight_decay=0.5, decoupled=True),
        lambda h: (1.8 - 0.05 - h, 0.8 * 0.95),
    ),
    "AdamW": (
        es.AdamW(lr=0.1, betas=(0.8, 0.9), weight_decay=0.5),
        lambda h: (1.8 - 0.05 - 0.2 * h, 0.8 * 0.95),
    ),
    "NAdam": (es.NAdam(lr=0.1, betas=(0.8, 0.9)), lambda h: (1.8 - h * (1 - 0.64), 0.8 - h * 0.8 * 0.2)),
}


@pytest.mark.parametrize("name", TRACE_DET)
@given(h=st.floats(-5.0, 50.0))
def test_trace_and_determinant(name: str, h: float) -> None:
    rule, expected = TRACE_DET[name]
    matrix = iteration_matrix(rule, torch.tensor([h / 0.1], dtype=torch.float64))[0]
    trace, det = expected(h)
    assert float(matrix.trace()) == pytest.approx(trace, abs=1e-12)
    assert float(torch.linalg.det(matrix)) == pytest.approx(det, abs=1e-11)


@given(h=st.floats(-1.0, 5.0), beta=betas)
def test_radius_and_verdict_equal_numpy_eigenvalues(h: float, beta: float) -> None:
    for rule in (es.HeavyBall(lr=1.0, momentum=beta), es.Nesterov(lr=1.0, momentum=beta)):
        matrix = iteration_matrix(rule, torch.tensor([h], dtype=torch.float64))[0]
        dense = float(torch.linalg.eigvals(matrix).abs().max())
        radius = float(spectral_radius(matrix))
        assert radius == pytest.approx(dense, abs=3e-8)  # a double root costs an eigensolver half its digits
        if abs(dense - 1) > 1e-7:
            assert bool(is_stable(matrix)) == (dense < 1)


def test_the_matrix_is_affine_in_the_eigenvalue() -> None:
    for rule in (r() for r in es.RULES.values()):
        if isinstance(rule, LinearRule):
            at = iteration_matrix(rule.replace(weight_decay=0.3), torch.tensor([0.0, 1.0, 7.0]).double())
            torch.testing.assert_close(at[2] - at[0], 7 * (at[1] - at[0]), rtol=1e-12, atol=1e-14)


def test_at_the_edge_and_on_flat_directions_nothing_is_called_stable() -> None:
    edge = iteration_matrix(es.GradientDescent(lr=0.02), torch.tensor([100.0, 99.0]).double())
    assert is_stable(edge).tolist() == [False, True]
    flat = iteration_matrix(es.HeavyBall(lr=0.1, momentum=0.7), torch.tensor([0.0]).double())
    assert not is_stable(flat).any()
    assert float(spectral_radius(flat)) == 1.0


def test_directions_are_judged_after_decay() -> None:
    zero, negative = torch.tensor([0.0]).double(), torch.tensor([-0.5]).double()
    decoupled = es.HeavyBall(lr=0.1, weight_decay=1.0, decoupled=True)
    assert float(radii(decoupled, zero)) == pytest.approx(0.9, abs=1e-12)
    coupled = es.HeavyBall(lr=0.1, weight_decay=1.0)
    assert float(radii(coupled, negative)) == pytest.approx(math.sqrt(0.9), abs=1e-12)
    assert max_stable_lr(es.GradientDescent(), 0.0) == math.inf
    assert max_stable_lr(es.GradientDescent(), -1.0) == 0.0
    assert max_stable_lr(es.HeavyBall(weight_decay=1.0, decoupled=True), 0.0) == pytest.approx(2.0)


def test_oscillation() -> None:
    rule = es.GradientDescent(lr=1.0)
    assert is_oscillating(iteration_matrix(rule, torch.tensor([0.5, 1.5]).double())).tolist() == [False, True]
    ball = iteration_matrix(es.HeavyBall(lr=1.0, momentum=0.25), torch.tensor([0.2, 1.0, 2.4]).double())
    assert is_oscillating(ball).tolist() == [False, True, True]


def test_the_limit_ignores_lr_and_adagrad_has_none() -> None:
    assert max_stable_lr(es.HeavyBall(lr=7.0), 2.0) == max_stable_lr(es.HeavyBall(lr=0.0), 2.0)
    assert max_stable_lr(es.AdaGrad(), 2.0) == math.inf
    assert float(frozen_limit(es.AdaGrad(), torch.tensor(2.0))) == pytest.approx(1.0)


def test_adagrads_unit_only_grows_and_what_is_left_then() -> None:
    """Not so on a saddle, along which its unit grows slower than the error; and decoupled decay is never measured."""
    decayed = es.AdaGrad(weight_decay=0.5, decoupled=True)
    assert max_stable_lr(decayed, 2.0) == pytest.approx(4.0)
    assert max_stable_lr(decayed, -2.0) == pytest.approx(4.0)
    assert max_stable_lr(es.AdaGrad(weight_decay=0.5), 2.0) == math.inf
    assert max_stable_lr(es.AdaGrad(), -2.0) == 0.0
    saddle = es.predict(es.AdaGrad(lr=0.1), es.Spectrum.from_eigenvalues([1.0, -1.0]), unit=1.0)
    assert (saddle.stable, saddle.max_stable_lr) == (False, math.inf)
    run = es.simulate(es.AdaGrad(lr=0.1), es.Quadratic([1.0, -1.0]), [0.1, 0.1], steps=2000)
    assert abs(float(run.final[0])) < 1e-9 < 1 < abs(float(run.final[1]))
    for lr, stable in ((3.9, True), (4.1, False)):
        rule = decayed.replace(lr=lr)
        assert es.predict(rule, es.Spectrum.from_eigenvalues([2.0, 1.0]), unit=1.0).stable is stable
        run = es.simulate(rule, es.Quadratic([2.0, 1.0]), [0.1, 0.1], steps=4000)
        assert (float(run.final.norm()) < 1e-3) is stable


@pytest.mark.parametrize("lr", [0.1, 10.0, 1e3, 1e6])
def test_torchs_adagrad_converges_at_any_lr(lr: float) -> None:
    p = torch.tensor([1.0, -0.5], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adagrad([p], lr=lr)
    reached = []
    for _ in range(4000):
        p.grad = torch.tensor([1.0, 4.0], dtype=torch.float64) * p.detach()
        optimizer.step()
        reached.append(float(p.detach().norm()))
    assert reached[-1] < 1e-6 * max(reached)


def test_coupled_decay_of_an_adaptive_rule_counts_once() -> None:
    """It is inside the preconditioned sharpness: at 0 nothing moves, whatever the decay."""
    for rule in (es.Adam(weight_decay=0.3), es.RMSProp(weight_decay=0.3)):
        assert max_stable_lr(rule, 0.0) == math.inf
        assert max_stable_lr(rule, 1.0) == max_stable_lr(rule.replace(weight_decay=0.0), 1.0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: max_stable_lr("adam", 1.0),  # type: ignore[call-overload]
        lambda: max_stable_lr(es.Adam, 1.0),  # type: ignore[call-overload]
        lambda: es.predict(torch.optim.SGD([torch.zeros(1, requires_grad=True)]), es.Spectrum.from_eigenvalues([1.0])),  # type: ignore[arg-type]
        lambda: es.tune("adam", es.Spectrum.from_eigenvalues([1.0])),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_rule_is_told_what_is(ask: Callable[[], object]) -> None:
    with pytest.raises(es.InvalidValue, match="is no rule; give one"):
        ask()


@pytest.mark.parametrize("sharpness", ["a", None, es.Spectrum.from_eigenvalues([1.0])])
def test_a_sharpness_is_a_number(sharpness: float) -> None:
    with pytest.raises(es.InvalidValue, match="must be a number"):
        max_stable_lr(es.GradientDescent(), sharpness)


def test_round_limits_are_round() -> None:
    assert [max_stable_lr(es.GradientDescent(), s) for s in (1.0, 2.0, 100.0)] == [2.0, 1.0, 0.02]


def test_lanes_give_the_limits_of_single_rules() -> None:
    momenta, sharpness = torch.tensor([0.0, 0.5, 0.9]).double(), torch.tensor([1.0, 2.0, 4.0]).double()
    together = max_stable_lr(es.HeavyBall(momentum=momenta), sharpness)
    for i in range(3):
        assert float(together[i]) == max_stable_lr(es.HeavyBall(momentum=float(momenta[i])), float(sharpness[i]))


def test_stability_region_agrees_with_the_limit() -> None:
    lr, momentum = torch.linspace(0.01, 4.0, 50).double(), torch.linspace(0.0, 0.95, 20).double()
    for rule, limit in ((es.HeavyBall(), lambda b: 2 * (1 + b)), (es.Adam(), lambda b: 2 * (1 + b) / (1 - b))):
        region = stability_region(rule, 1.0, lr, momentum) < 1
        expected = lr.unsqueeze(0) < limit(momentum).unsqueeze(-1)
        assert bool((region == expected).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sharpness_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(es.InvalidValue, match="finite"):
        max_stable_lr(es.GradientDescent(), bad)


@pytest.mark.parametrize("rule", [es.Lion(), es.SignDescent()])
def test_signs_have_no_limit(rule: Rule) -> None:
    with pytest.raises(es.Unsupported, match="simulate it"):
        max_stable_lr(rule, 1.0)


# --- the real optimisers, bisected by theory.md's recipe ---


@dataclass(frozen=True)
class Real:
    """A torch.optim class at lr .1 with P = 1 (eps = 1, start 1e-100: sqrt(v) is nothing), and the rule it is."""

    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    rule: Rule


def _one(kind: type, rule: Rule, **settings: object) -> Real:
    return Real(lambda p: kind(p, lr=0.1, **settings), rule)


REAL = {
    "SGD": _one(torch.optim.SGD, es.GradientDescent(lr=0.1)),
    "SGD, coupled decay": _one(torch.optim.SGD, es.GradientDescent(lr=0.1, weight_decay=2.0), weight_decay=2.0),
    "SGD momentum": _one(torch.optim.SGD, es.Momentum(lr=0.1, momentum=0.9), momentum=0.9),
    "SGD dampened": _one(
        torch.optim.SGD, es.Momentum(lr=0.1, momentum=0.9, dampening=0.9), momentum=0.9, dampening=0.9
    ),
    "SGD nesterov": _one(torch.optim.SGD, es.Nesterov(lr=0.1, momentum=0.9), momentum=0.9, nesterov=True),
    "RMSprop": _one(torch.optim.RMSprop, es.RMSProp(lr=0.1, eps=1.0), eps=1.0),
    "RMSprop momentum": _one(
        torch.optim.RMSprop, es.RMSProp(lr=0.1, eps=1.0, momentum=0.9), eps=1.0, momentum=0.9
    ),
    "Adam": _one(torch.optim.Adam, es.Adam(lr=0.1, eps=1.0), eps=1.0),
    "Adam, coupled decay": _one(
        torch.optim.Adam, es.Adam(lr=0.1, eps=1.0, weight_decay=2.0), eps=1.0, weight_decay=2.0
    ),
    "AMSGrad": _one(torch.optim.Adam, es.Adam(lr=0.1, eps=1.0, amsgrad=True), eps=1.0, amsgrad=True),
    "Adamax": _one(torch.optim.Adamax, es.Adamax(lr=0.1, eps=1.0), eps=1.0),
    "AdamW": _one(torch.optim.AdamW, es.AdamW(lr=0.1, eps=1.0, weight_decay=2.0), eps=1.0, weight_decay=2.0),
    "NAdam": _one(
        torch.optim.NAdam, es.NAdam(lr=0.1, eps=1.0, momentum_decay=1e4), eps=1.0, momentum_decay=1e4
    ),
    "NAdam, coupled decay": _one(
        torch.optim.NAdam,
        es.NAdam(lr=0.1, eps=1.0, momentum_decay=1e4, weight_decay=2.0), eps=1.0, momentum_decay=1e4, weight_decay=2.0,
    ),
    "RMSprop, coupled decay": _one(
        torch.optim.RMSprop, es.RMSProp(lr=0.1, eps=1.0, weight_decay=2.0), eps=1.0, weight_decay=2.0
    ),
    "SGD nesterov, coupled decay": _one(
        torch.optim.SGD,
        es.Nesterov(lr=0.1, momentum=0.9, weight_decay=2.0), momentum=0.9, nesterov=True, weight_decay=2.0,
    ),
    "RMSprop centred": _one(torch.optim.RMSprop, es.RMSProp(lr=0.1, eps=1.0, centered=True), eps=1.0, centered=True),
    "RAdam": _one(torch.optim.RAdam, es.RAdam(lr=0.1, eps=1.0, betas=(0.9, 0.9)), eps=1.0, betas=(0.9, 0.9)),
    "Adagrad": _one(torch.optim.Adagrad, es.AdaGrad(lr=0.1, eps=1.0), eps=1.0),
}  # fmt: skip


def grows(step: Callable[[Tensor, Tensor], Tensor], eigenvalues: Tensor, updates: int = 1200) -> Tensor:
    """Per eigenvalue, whether |x| is still growing over the last quarter: judged late, after corrections have faded."""
    x = torch.full_like(eigenvalues, 1e-100)
    late = []
    for t in range(updates):
        x = step(x, eigenvalues)
        if t >= updates // 2:
            late.append(x.abs())
    half = len(late) // 2
    return torch.stack(late[half:]).amax(0) > torch.stack(late[:half]).amax(0)


def bisected(step_of: Callable[[], Callable[[Tensor, Tensor], Tensor]], around: float) -> float:
    """The eigenvalue at which growth begins, to 1e-9, 200 candidates a round."""
    low, high = 0.2 * around, 3 * around
    while high - low > 1e-9 * around:
        tried = torch.linspace(low, high, 200, dtype=torch.float64)
        first = int(grows(step_of(), tried).int().argmax())
        assert first > 0, "growth must begin inside the bracket"
        low, high = float(tried[first - 1]), float(tried[first])
    return (low + high) / 2


@pytest.mark.parametrize("name", REAL)
def test_the_real_torch_class_leaves_where_the_rule_says(name: str) -> None:
    real = REAL[name]

    def fresh() -> Callable[[Tensor, Tensor], Tensor]:
        parameter = torch.zeros(200, dtype=torch.float64, requires_grad=True)
        optimizer = real.make([parameter])

        def step(x: Tensor, eigenvalues: Tensor) -> Tensor:
            with torch.no_grad():
                parameter.copy_(x)
            parameter.grad = eigenvalues * x
            optimizer.step()
            return parameter.detach().clone()

        return step

    w = 0.0 if real.rule.name == "adamw" else float(real.rule.weight_decay)  # type: ignore[attr-defined]
    edge = largest_stable_eigenvalue(real.rule)
    expected = edge - w if isinstance(real.rule, LinearRule) and real.rule.adaptive else edge
    assert bisected(fresh, expected) == pytest.approx(expected, rel=1e-6)
    if not w and real.rule.name not in ("adamw", "adagrad"):
        assert max_stable_lr(real.rule, expected) == pytest.approx(0.1, rel=1e-9)


def test_torch_measures_coupled_decay_in_its_unit_too() -> None:
    """H = c diag(1, 100), P = diag(1e-3, 1), w = 1, lr = 1e-3: the edge is c = 1, from (c + 1) / 1e-3; not c = 2."""

    def fresh() -> Callable[[Tensor, Tensor], Tensor]:
        both = [torch.full((200,), 1e-100, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        groups = [{"params": [both[0]], "eps": 1e-3}, {"params": [both[1]], "eps": 1.0}]
        optimizer = torch.optim.RMSprop(groups, lr=1e-3, weight_decay=1.0)

        def step(_: Tensor, c: Tensor) -> Tensor:
            for parameter, curvature in zip(both, (1.0, 100.0), strict=True):
                parameter.grad = curvature * c * parameter.detach()
            optimizer.step()
            return torch.maximum(*(parameter.detach().abs() for parameter in both))

        return step

    assert bisected(fresh, 1.0) == pytest.approx(1.0, rel=1e-6)


def _heavy_ball(lr: float, beta: float, w: float) -> Callable[[], Callable[[Tensor, Tensor], Tensor]]:
    def fresh() -> Callable[[Tensor, Tensor], Tensor]:
        memory = [torch.zeros(200, dtype=torch.float64)]

        def step(x: Tensor, eigenvalues: Tensor) -> Tensor:
            memory[0] = beta * memory[0] - lr * eigenvalues * x
            return (1 - lr * w) * x + memory[0]

        return step

    return fresh


def _ema(lr: float, beta: float) -> Callable[[], Callable[[Tensor, Tensor], Tensor]]:
    def fresh() -> Callable[[Tensor, Tensor], Tensor]:
        memory = [torch.zeros(200, dtype=torch.float64)]

        def step(x: Tensor, eigenvalues: Tensor) -> Tensor:
            memory[0] = beta * memory[0] + (1 - beta) * eigenvalues * x
            return x - lr * memory[0]

        return step

    return fresh


def test_rules_without_a_torch_twin_leave_where_they_say() -> None:
    for rule, loop in (
        (es.HeavyBall(lr=0.1), _heavy_ball(0.1, 0.9, 0.0)),
        (es.HeavyBall(lr=0.1, weight_decay=2.0, decoupled=True), _heavy_ball(0.1, 0.9, 2.0)),
        (es.EMAMomentum(lr=0.1), _ema(0.1, 0.9)),
    ):
        expected = largest_stable_eigenvalue(rule)
        assert bisected(loop, expected) == pytest.approx(expected, rel=1e-6)
