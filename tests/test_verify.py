"""verify: limits found by running, where the truth is a closed form; a lie in the Hessian is found out."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

import eigenstep as es
from eigenstep.problems import article, problem_named
from eigenstep.rules import LinearRule, Rule
from eigenstep.verify import (
    GOALS,
    check_held,
    check_linear,
    check_live,
    check_problem,
    measured_factors,
    measured_limit,
    measured_orbit,
    race,
    race_figure,
    sharpest,
    unit_after,
)
from eigenstep.verify.fate import LEAVES, RETURNS
from eigenstep.verify.figure import limits_figure
from eigenstep.verify.motion import rule_behind

L = 40.0
TURNED = es.Quadratic([1.0, 4.0, L, 9.0], [0.8, 0.6, -0.3, 0.2], seed=3)
STRAIGHT = es.Quadratic([1.0, 4.0, L], [0.8, 0.6, -0.3])

CLOSED: list[tuple[LinearRule, float]] = [
    (es.GradientDescent(), 2 / L),
    (es.HeavyBall(momentum=0.9), 3.8 / L),
    (es.HeavyBall(momentum=0.5), 3.0 / L),
    (es.Momentum(momentum=0.9, dampening=0.5), 7.6 / L),
    (es.EMAMomentum(momentum=0.9), 38 / L),
    (es.Nesterov(momentum=0.9), 3.8 / 2.8 / L),
]


# --- the edge, found by running ---


@pytest.mark.parametrize(("rule", "limit"), CLOSED, ids=[f"{r.name} {getattr(r, 'momentum', '')}" for r, _ in CLOSED])
def test_bisecting_finds_the_closed_form(rule: LinearRule, limit: float) -> None:
    """The lr of the rule given is ignored; nothing is predicted on the way."""
    found = measured_limit(rule.replace(lr=123.0), TURNED)
    assert found.converged
    assert found.uncertainty < 1e-3
    assert found.low < found.lr < found.high
    assert found.lr == pytest.approx(limit, rel=2e-3)
    tried = [trial.lr for trial in found.trials]
    assert tried == sorted(tried)
    assert tried[0] < 0.5 * limit < 2 * limit < tried[-1], "the bracket must begin wide"
    for trial in found.trials:
        if trial.lr < 0.99 * limit:
            assert trial.fate != LEAVES
        if trial.lr > 1.01 * limit:
            assert trial.fate != RETURNS


@pytest.mark.parametrize(
    ("rule", "gain"), [(es.RMSProp(), 2.0), (es.RMSProp(momentum=0.9), 3.8), (es.Adam(), 38.0), (es.AdaGrad(), 2.0)]
)
def test_a_held_unit_sets_the_edge(rule: LinearRule, gain: float) -> None:
    """Sharpest is not the largest eigenvalue: 4 / .05 = 80 against 40 / 2 = 20."""
    unit = torch.tensor([1.0, 0.05, 2.0], dtype=torch.float64)
    assert measured_limit(rule, STRAIGHT, unit=unit).lr == pytest.approx(gain / 80, rel=2e-3)


class Lying(es.Quadratic):
    """Its Hessian says half of what its gradients do."""

    def hessian(self, x: Tensor) -> Tensor:
        return super().hessian(x) / 2


def test_a_wrong_prediction_is_found_out() -> None:
    check = check_linear(es.HeavyBall(), Lying([1.0, L], [0.8, 0.6]))
    assert check.predicted == pytest.approx(2 * 3.8 / L)
    assert check.measured.lr == pytest.approx(3.8 / L, rel=2e-3)
    assert check.difference == pytest.approx(-0.5, abs=2e-3)
    assert not check.met
    honest = check_linear(es.HeavyBall(), es.Quadratic([1.0, L], [0.8, 0.6]))
    assert honest.met
    assert not replace(honest, measured=replace(honest.measured, converged=False)).met
    assert not replace(honest, predicted=honest.predicted * (1 + 1.5 * GOALS["linear"])).met


def test_growth_further_out_does_not_make_it_stable() -> None:
    """A loss whose curvature falls away from its minimum: an unstable step stays bounded, and has left all the same."""

    class Bounded(es.Quadratic):
        def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
            loss, gradient = super().loss_and_gradient(x)
            return loss, gradient / (1 + 1e3 * (x - self.minimum).square().sum(-1, keepdim=True))

    problem = Bounded([1.0, L], [0.8, 0.6])
    run = es.simulate(es.GradientDescent(lr=1.5 * 2 / L), problem, problem.minimum + 1e-4, steps=500)
    assert float((run.final - problem.minimum).norm()) < 0.1
    assert measured_limit(es.GradientDescent(), problem).lr == pytest.approx(2 / L, rel=3e-3)


@pytest.mark.parametrize("lr", [0.3, 0.6, 0.9, 1.1, 1.4])
def test_factors_per_update_are_the_closed_form(lr: float) -> None:
    found = measured_factors(es.GradientDescent(), TURNED, torch.tensor([lr * 2 / L], dtype=torch.float64))
    assert float(found) == pytest.approx(abs(1 - 2 * lr), rel=1e-6)


def test_a_factor_of_zero_is_no_nan() -> None:
    lr = torch.tensor([1 / L], dtype=torch.float64)
    assert float(measured_factors(es.GradientDescent(), es.Quadratic([1.0, L], [0.5, 0.5]), lr)) < 1e-3


def test_factors_with_momentum() -> None:
    lr = torch.tensor([2.0, 3.9, 4.2], dtype=torch.float64) / L
    found = measured_factors(es.HeavyBall(), TURNED, lr)
    assert float(found[0]) == pytest.approx(math.sqrt(0.9), rel=2e-3)
    for h, factor in zip((3.9, 4.2), found[1:].tolist(), strict=True):
        trace = 1.9 - h
        assert factor == pytest.approx((abs(trace) + math.sqrt(trace**2 - 3.6)) / 2, rel=2e-3)


def test_the_sharpest_direction_solves_the_generalised_problem() -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6))
    hessian, unit = root @ root.T, rng.uniform(0.1, 3, 6)
    values, vectors = scipy.linalg.eigh(hessian, np.diag(unit))
    value, direction = sharpest(torch.as_tensor(hessian), torch.as_tensor(unit))
    assert value == pytest.approx(values[-1], rel=1e-12)
    assert abs(float(direction @ torch.as_tensor(vectors[:, -1] / np.linalg.norm(vectors[:, -1])))) == pytest.approx(1)


def test_the_unit_is_that_of_torchs_own_steps() -> None:
    problem = article()
    p = problem.start.clone().requires_grad_()
    optimizer = torch.optim.RMSprop([p], lr=0.01)
    for _ in range(50):
        p.grad = problem.gradient(p.detach())
        optimizer.step()
    expected = optimizer.state[p]["square_avg"].sqrt() + 1e-8
    assert torch.allclose(unit_after(es.RMSProp(lr=0.01), problem, 50), expected, rtol=1e-12, atol=0)


def test_held_and_live_checks_agree_with_their_closed_forms() -> None:
    held = check_held(es.RMSProp(), STRAIGHT, updates=50)
    ratio = STRAIGHT.eigenvalues / unit_after(es.RMSProp(), STRAIGHT, 50)
    assert held.sharpness == pytest.approx(float(ratio.max()))
    assert held.predicted == pytest.approx(2 / float(ratio.max()))
    assert held.met
    assert held.kind == "held P"
    small = es.Quadratic([L], [0.5])
    live = check_live(torch.optim.RMSprop, small)
    assert live.predicted == pytest.approx(2 * 10 * 0.5 * L / L)  # eps = 10 L |minimum|
    assert live.met
    assert isinstance(live.rule, es.RMSProp)


def test_the_rule_behind_a_torch_optimizer() -> None:
    assert isinstance(rule_behind(torch.optim.NAdam), es.NAdam)
    with pytest.raises(es.Unsupported, match="Rprop"):
        rule_behind(torch.optim.Rprop)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: measured_limit(es.GradientDescent(weight_decay=0.1), TURNED), "part of the loss"),
        (lambda: measured_limit(es.Adam(), TURNED), "unit="),
        (lambda: measured_limit(es.GradientDescent(), TURNED, unit=torch.ones(4).double()), "does not adapt"),
        (lambda: measured_limit(es.Adam(), TURNED, unit=-torch.ones(4).double()), "positive"),
        (lambda: measured_limit(es.Lion(), TURNED), "no stability limit"),
        (lambda: measured_limit(es.GradientDescent(), TURNED, tolerance=0.0), "between 0 and 1"),
        (lambda: measured_limit(es.GradientDescent(), es.Quadratic([-1.0, -2.0])), "sets no limit"),
        (lambda: measured_orbit(es.Adam(), TURNED, updates=10), "at least 100"),
        (lambda: measured_orbit(es.HeavyBall(), TURNED), "does not adapt"),
        (lambda: measured_orbit(es.AdaGrad(), TURNED), "never falls"),
        (lambda: race([], article()), "at least one"),
        (lambda: race([es.Adam()], article(), loss=0.0), "positive"),
    ],
)
def test_refusals(ask: Callable[[], object], says: str) -> None:
    with pytest.raises(es.EigenstepError, match=says):
        ask()


# --- the orbit of an adaptive rule ---


@pytest.mark.parametrize(("momentum", "width"), [(0.0, 1 / 2), (0.5, 1 / 3)])
def test_rmsprops_orbit(momentum: float, width: float) -> None:
    orbit = measured_orbit(es.RMSProp(lr=0.01, momentum=momentum), es.Quadratic([1.0, 4.0]), 3000)
    assert orbit.predicted == pytest.approx(0.01 * width)
    assert orbit.median == pytest.approx(0.01 * width, rel=0.02)
    assert orbit.halves[1] > 0.9 * orbit.halves[0], "it does not converge"
    assert orbit.converging_eps == pytest.approx(4.0 * 0.01 * width)


def test_adams_orbit() -> None:
    """Theory: a tail rms of about 1.08 lr / 38, and bursts to .16 to .26 lr."""
    orbit = measured_orbit(es.Adam(lr=0.01), es.Quadratic([1.0, 4.0]), 10_000)
    assert orbit.predicted == pytest.approx(0.01 / 38)
    assert [Rule.from_dict(rule) for rule in orbit.as_dict()["rules"]] == [es.Adam(lr=0.01)]
    assert 1.0 < orbit.median / orbit.predicted < 1.2
    assert orbit.halves[1] > 0.9 * orbit.halves[0]
    assert orbit.largest < 0.3 * 0.01


def test_a_rule_that_converges_has_no_orbit_left() -> None:
    """With eps above the converging one, the bursts have died away."""
    problem = es.Quadratic([1.0, 4.0])
    rule = es.RMSProp(lr=0.01, eps=1.5 * 4.0 * 0.01 / 2)
    orbit = measured_orbit(rule, problem, 3000)
    assert orbit.largest < 1e-6 * orbit.predicted


# --- race ---


def test_a_race_predicts_what_it_measures() -> None:
    rules: list[Rule] = [
        es.GradientDescent(lr=2 / 101),
        es.HeavyBall(lr=0.0035),
        es.HeavyBall(lr=0.0035, weight_decay=1e-5, decoupled=True),
        es.Nesterov(lr=0.005),
        es.Adam(lr=2 / 101),
        es.SignDescent(lr=0.01),
        es.GradientDescent(lr=0.0202),
    ]
    entries = race(rules, article(), box=5.0, steps=2000)
    for entry in entries[:4]:
        assert entry.prediction is not None and entry.predicted_losses is not None
        assert entry.run.steps == entry.prediction.steps
        assert entry.settled == entry.prediction.settled
        shown = entry.losses > 1e-12
        assert torch.allclose(entry.predicted_losses[shown], entry.losses[shown], rtol=1e-8, atol=0)
    assert entries[0].limit == pytest.approx(0.02)
    for entry in entries[4:6]:
        assert (entry.prediction, entry.settled, entry.limit) == (None, None, None)
    assert entries[4].run.steps == 116
    assert (entries[6].run.left, entries[6].settled, entries[6].last_above) == (101, None, None)
    assert entries[6].as_dict()["left"] == 101
    assert [Rule.from_dict(entry.as_dict()["rules"][0]) for entry in entries] == rules


def test_a_race_on_a_curved_loss_predicts_no_count() -> None:
    (entry,) = race([es.GradientDescent(lr=1e-3)], es.Rosenbrock(), steps=100)
    assert (entry.prediction, entry.predicted_losses) == (None, None)
    assert entry.limit == pytest.approx(2 / 1001.6, rel=1e-4)


def test_the_figure_of_a_race() -> None:
    entries = race([es.GradientDescent(lr=2 / 101), es.Adam(lr=0.02)], article(), steps=1000)
    figure = race_figure(entries, 1e-6)
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("updates", "loss above the minimum's", "log")
    legend = ax.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == [
        "gradient-descent, lr 0.0198", "adam, lr 0.02", "predicted",
    ]  # fmt: skip
    descent, dots = ax.lines[0], ax.lines[2]
    assert np.allclose(descent.get_ydata(), entries[0].losses[: len(descent.get_ydata())])
    every = np.asarray(dots.get_xdata(), dtype=int)
    assert np.allclose(dots.get_ydata(), entries[0].losses[every], rtol=1e-6)
    assert "tolerance" in [text.get_text() for text in ax.texts]


# --- whole problems ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["breast-cancer", "diabetes", "digits"])
def test_every_prediction_is_met_on_real_losses(name: str) -> None:
    told: list[tuple[int, int]] = []
    check = check_problem(problem_named(name), lambda done, total: told.append((done, total)))
    assert told == [(k, 8) for k in range(1, 9)]
    assert [limit.kind for limit in check.limits] == ["linear"] * 3 + ["held P"] * 2 + ["live"] * 2
    for limit in check.limits:
        assert limit.met, f"{limit.rule.name}, {limit.kind}: {limit.difference:+.2%}"
        assert torch.allclose(limit.factors.measured, limit.factors.predicted, rtol=0.03)
    assert check.orbit.halves[1] > 0.5 * check.orbit.halves[0]
    figure = limits_figure(check)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 8
    assert all(ax.get_xlabel() for ax in shown)
    assert [ax.get_title(loc="left").split(":")[0] for ax in shown[:4]] == [
        "gradient-descent", "heavy-ball", "nesterov", "rmsprop, held P",
    ]  # fmt: skip
    for limit, ax in zip(check.limits, shown, strict=False):
        dots = next(line for line in ax.lines if line.get_label() == "measured on the loss")
        assert np.allclose(dots.get_ydata(), limit.factors.measured)
        edge = next(line for line in ax.lines if str(line.get_label()).startswith("edge"))
        assert float(np.asarray(edge.get_xdata())[0]) == pytest.approx(1 + limit.difference)
