"""Best settings against the closed forms of Polyak, Lessard and others, and against the counts of theory.md."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import eigenstep as es
from eigenstep.cli import main
from eigenstep.simulation import simulate
from eigenstep.theory import adam_step_bound, converging_eps, orbit_half_width, tune

conditions = st.floats(1.5, 1e5)
scales = st.floats(1e-3, 1e3)
ARTICLE = es.Spectrum.from_eigenvalues([1.0, 100.0])
START = [-0.8, -0.6]


@given(kappa=conditions, scale=scales)
def test_gradient_descent(kappa: float, scale: float) -> None:
    best = tune(es.GradientDescent(), es.Spectrum.from_eigenvalues([scale, scale * kappa]))
    assert best.lr == pytest.approx(2 / (scale * (1 + kappa)), rel=1e-10)
    assert best.rate == pytest.approx((kappa - 1) / (kappa + 1), rel=1e-10)
    assert best.momentum is None


@given(kappa=conditions, beta=st.floats(0.0, 0.98))
def test_heavy_ball_and_ema_at_fixed_momentum(kappa: float, beta: float) -> None:
    s, spectrum = math.sqrt(beta), es.Spectrum.from_eigenvalues([1.0, kappa])
    best = tune(es.HeavyBall(momentum=beta), spectrum)
    if kappa <= ((1 + s) / (1 - s)) ** 2:
        assert best.rate == pytest.approx(s, abs=1e-6)
        assert (1 - s) ** 2 * (1 - 1e-6) <= best.lr <= (1 + s) ** 2 / kappa * (1 + 1e-6)
    else:
        c = (1 + beta) * (kappa - 1) / (kappa + 1)
        assert best.lr == pytest.approx(2 * (1 + beta) / (1 + kappa), rel=1e-6)
        assert best.rate == pytest.approx((c + math.sqrt(c**2 - 4 * beta)) / 2, rel=1e-8)
    ema = tune(es.EMAMomentum(momentum=beta), spectrum)
    assert ema.rate == pytest.approx(best.rate, rel=1e-6)
    assert ema.lr_interval[0] == pytest.approx(best.lr_interval[0] / (1 - beta), rel=1e-5)


def test_a_best_momentum_is_one_with_its_lr_however_it_is_asked_for() -> None:
    """over='momentum' is what the command line's --over momentum is: the pair."""
    ways: list[str | list[str]] = ["momentum", ["lr", "momentum"], ["momentum", "lr"]]
    found = [tune(es.HeavyBall(momentum=0.3), ARTICLE, over=over) for over in ways]
    assert len({(best.lr, best.momentum) for best in found}) == 1
    assert found[0].momentum == pytest.approx((9 / 11) ** 2, rel=1e-5)  # Polyak, kappa = 100
    assert found[0].lr == pytest.approx((2 / 11) ** 2, rel=1e-5)
    run = CliRunner().invoke(main, ["tune", "1", "100", "--rule", "heavy-ball", "--over", "momentum", "--json"])
    shown = json.loads(run.stdout)
    assert (shown["lr"], shown["momentum"]) == pytest.approx((found[0].lr, found[0].momentum))


@given(kappa=conditions, beta=st.floats(0.05, 0.98))
def test_nesterov_at_fixed_momentum(kappa: float, beta: float) -> None:
    best = tune(es.Nesterov(momentum=beta), es.Spectrum.from_eigenvalues([1.0, kappa]))
    fine = [best.lr_limit * i / 4000 for i in range(1, 4000)]

    def radius(h: float) -> float:
        trace, det = (1 + beta) * (1 - h), beta * (1 - h)
        disc = trace**2 - 4 * det
        return math.sqrt(det) if disc < 0 else (abs(trace) + math.sqrt(disc)) / 2

    grid = min(max(radius(lr), radius(lr * kappa)) for lr in fine)
    assert best.rate <= grid + 1e-12
    assert max(radius(best.lr), radius(best.lr * kappa)) == pytest.approx(best.rate, abs=1e-9)


@settings(max_examples=5)
@given(kappa=st.floats(2.0, 1e4))
def test_jointly_best_pairs(kappa: float) -> None:
    spectrum, root = es.Spectrum.geometric(1.0, kappa, 5), math.sqrt(kappa)
    polyak = tune(es.HeavyBall(), spectrum, over=("lr", "momentum"))
    assert polyak.rate == pytest.approx((root - 1) / (root + 1), abs=1e-6)
    assert polyak.momentum == pytest.approx(((root - 1) / (root + 1)) ** 2, abs=1e-5)
    assert polyak.lr == pytest.approx((2 / (root + 1)) ** 2, rel=1e-4)
    far = math.sqrt(3 * kappa + 1)
    nesterov = tune(es.Nesterov(), spectrum, over=("lr", "momentum"))
    assert nesterov.rate == pytest.approx(1 - 2 / far, abs=1e-6)
    assert nesterov.momentum == pytest.approx((far - 2) / (far + 2), abs=1e-4)
    assert nesterov.lr == pytest.approx(4 / (3 * kappa + 1), rel=1e-3)


@pytest.mark.parametrize(
    ("rule", "point", "steps"),
    [
        (es.GradientDescent(), "iterate", 320),
        (es.HeavyBall(momentum=(9 / 11) ** 2), "iterate", 46),  # within one part in 3,000 of lr = .0321649
        (es.HeavyBall(momentum=0.9), "iterate", 155),
        (es.Nesterov(momentum=0.9), "iterate", 94),
        (es.Nesterov(momentum=0.9), "stored", 93),
    ],
)
def test_lr_tuned_for_the_count(rule: es.LinearRule, point: str, steps: int) -> None:
    best = tune(rule, ARTICLE, for_steps=True, start=START, loss=1e-6, point=point)
    assert best.steps == steps
    confirmed = es.predict(best.rule, ARTICLE, start=START, loss=1e-6, point=point)
    assert confirmed.settled == steps


def test_the_pair_tuned_for_the_count_beats_the_pair_tuned_for_the_rate() -> None:
    best = tune(es.HeavyBall(), ARTICLE, over=("lr", "momentum"), for_steps=True, start=START, loss=1e-6)
    polyak = es.HeavyBall(lr=(2 / 11) ** 2, momentum=(9 / 11) ** 2)
    assert es.predict(polyak, ARTICLE, start=START, loss=1e-6).settled == 66
    assert best.steps is not None
    assert best.steps <= 46


def test_adam_with_a_frozen_unit_is_tuned_like_ema_momentum() -> None:
    adam = tune(es.Adam(), ARTICLE, unit=10.0)
    ema = tune(es.EMAMomentum(momentum=0.9), ARTICLE)
    assert adam.rate == pytest.approx(ema.rate, rel=1e-9)
    assert adam.lr_interval == pytest.approx(tuple(10 * v for v in ema.lr_interval), rel=1e-6)


def test_refusals() -> None:
    with pytest.raises(es.InvalidValue, match="weight decay"):
        tune(es.GradientDescent(), es.Spectrum.from_eigenvalues([1.0, 0.0]))
    with pytest.raises(es.InvalidValue, match="positive"):
        tune(es.GradientDescent(), es.Spectrum.from_eigenvalues([-1.0]))
    with pytest.raises(es.InvalidValue, match="covers"):
        tune(es.GradientDescent(), es.Spectrum.from_eigenvalues([1.0], covers="top", dimension=3))
    with pytest.raises(es.InvalidValue, match="no momentum"):
        tune(es.GradientDescent(), ARTICLE, over=("lr", "momentum"))
    with pytest.raises(es.InvalidValue, match="over="):
        tune(es.HeavyBall(), ARTICLE, over="momentun")
    with pytest.raises(es.InvalidValue, match="start="):
        tune(es.HeavyBall(), ARTICLE, for_steps=True)
    with pytest.raises(es.InvalidValue, match="P moves"):
        tune(es.Adam(), ARTICLE, unit=1.0, for_steps=True, start=START, loss=1e-6)


# --- adaptive methods near a minimum ---


@given(lr=st.floats(1e-4, 1.0), b1=st.floats(0.0, 0.99))
def test_orbit_widths_and_converging_eps(lr: float, b1: float) -> None:
    adam = es.Adam(lr=lr, betas=(b1, 0.999))
    assert orbit_half_width(adam) == pytest.approx(lr * (1 - b1) / (2 * (1 + b1)), rel=1e-9)
    assert converging_eps(adam, 7.0) == pytest.approx(7 * lr * (1 - b1) / (2 * (1 + b1)), rel=1e-9)
    assert orbit_half_width(es.RMSProp(lr=lr)) == pytest.approx(lr / 2, rel=1e-9)
    assert orbit_half_width(es.RMSProp(lr=lr, momentum=b1)) == pytest.approx(lr / (2 * (1 + b1)), rel=1e-9)
    assert converging_eps(es.RMSProp(lr=lr, momentum=b1), 3.0) == pytest.approx(3 * lr / (2 * (1 + b1)), rel=1e-9)


# A short memory, so that v has fallen below eps, and growth from there has shown, within a few thousand updates.
FORGETFUL = [
    es.Adam(lr=0.01, betas=(0.9, 0.95)),
    es.RMSProp(lr=0.01, alpha=0.95),
    es.RMSProp(lr=0.01, alpha=0.95, momentum=0.9),
]


@pytest.mark.parametrize("guard", ["eps", "delta"])
@pytest.mark.parametrize("rule", FORGETFUL)
def test_above_the_converging_eps_it_converges_and_below_it_does_not(rule: es.LinearRule, guard: str) -> None:
    problem = es.Quadratic([4.0])
    eps = torch.tensor([1.1, 0.9], dtype=torch.float64) * converging_eps(rule, 4.0)
    chosen = rule.replace(**{guard: eps if guard == "eps" else eps**2})
    run = simulate(chosen, problem, start=[0.1], steps=6_000, keep=["points"])
    assert run.points is not None
    above, below = run.points[:, 3_000:].abs().amax((1, 2)).tolist()  # below it bursts, and is close by at times
    assert above < 1e-9
    assert below > 1e-5


def test_rules_that_do_not_forget_have_no_orbit() -> None:
    for rule in (es.AdaGrad(), es.Adam(amsgrad=True), es.HeavyBall(lr=0.1)):
        with pytest.raises(es.Unsupported):
            orbit_half_width(rule)


@given(b1=st.floats(0.0, 0.95), b2=st.floats(0.5, 0.999), t=st.integers(1, 400))
def test_adams_step_bound_is_attained_and_not_passed(b1: float, b2: float, t: int) -> None:
    def ratio(gradients: list[float]) -> float:
        m = v = 0.0
        for g in gradients:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        n = len(gradients)
        return abs(m / (1 - b1**n)) / math.sqrt(v / (1 - b2**n))

    bound = adam_step_bound((b1, b2), t)
    worst = [(b1 / b2) ** (t - i) for i in range(1, t + 1)]
    if worst[0] > 1e-140 and worst[0] < 1e140:
        assert ratio(worst) == pytest.approx(bound, rel=1e-6)
    assert ratio([1.0] * t) <= bound * (1 + 1e-9)
    if b1**2 < b2:
        assert bound <= adam_step_bound((b1, b2)) * (1 + 1e-9) or t < 50


def test_adams_step_bound_known_values() -> None:
    assert [round(adam_step_bound((0.9, 0.999), t), 1) for t in (10, 100, 1000)] == [1.0, 2.2, 5.8]
    assert adam_step_bound((0.9, 0.999)) == pytest.approx(7.27, abs=0.005)
    assert adam_step_bound((0.9, 0.9)) == pytest.approx(1.0)
    assert adam_step_bound((0.9, 0.8)) == math.inf
    with pytest.raises(es.InvalidValue):
        adam_step_bound((0.9, 1.0))


# --- narrow windows of the count ---


@pytest.mark.parametrize("seed", range(4))
def test_no_lr_of_a_fine_grid_has_fewer_updates_than_the_one_found(seed: int) -> None:
    """Beside a plain loop over 20,001 lrs, which is fine enough to see windows of one part in 3,000."""
    draw = torch.Generator().manual_seed(seed)
    top, momentum = 20 + 80 * float(torch.rand((), generator=draw)), 0.5 + 0.2 * seed / 3
    start = torch.randn(2, generator=draw, dtype=torch.float64)
    rule, spectrum = es.HeavyBall(momentum=momentum), es.Spectrum.from_eigenvalues([1.0, top])
    best = tune(rule, spectrum, for_steps=True, start=start, loss=1e-6)
    lr = torch.linspace(0.02 * best.lr_limit, best.lr_limit, 20_001, dtype=torch.float64).unsqueeze(-1)
    values = torch.tensor([1.0, top], dtype=torch.float64)
    x, velocity, above = start.expand(len(lr), 2), torch.zeros(len(lr), 2, dtype=torch.float64), torch.zeros(len(lr))
    for k in range(1, 400):
        velocity = momentum * velocity - lr * values * x
        x = x + velocity
        above = torch.where((values * x**2 / 2).sum(-1) > 1e-6, k, above)
    assert best.steps == int(above.min()) + 1
