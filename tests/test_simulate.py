"""simulate: against loops over torch.optim, the article's counts, and lanes against single runs, bit for bit."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eigenstep.errors import InvalidValue, UnknownName
from eigenstep.problems import Himmelblau, Quadratic, Rosenbrock, article, problem_named
from eigenstep.rules import (
    RULES,
    AdaGrad,
    Adam,
    AdamW,
    GradientDescent,
    HeavyBall,
    Momentum,
    NAdam,
    Nesterov,
    RMSProp,
    Rule,
)
from eigenstep.simulation import MISSING, Run, simulate

SLOW = 2 / 101  # the article's eta*
ARTICLE = {
    "gradient descent": (GradientDescent(lr=SLOW), lambda p: torch.optim.SGD(p, lr=SLOW)),
    "heavy ball": (HeavyBall(lr=0.175 * SLOW), lambda p: torch.optim.SGD(p, lr=0.175 * SLOW, momentum=0.9)),
    "torch momentum": (
        Momentum(lr=0.175 * SLOW, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.175 * SLOW, momentum=0.9),
    ),
    "adam": (Adam(lr=SLOW), lambda p: torch.optim.Adam(p, lr=SLOW)),
}


def loop(make: Callable[[list[Tensor]], Any], problem: Any, start: Tensor, updates: int) -> Tensor:
    """The points of a plain torch.optim loop with autograd, (updates + 1, n)."""
    p = start.clone().requires_grad_()
    optimizer = make([p])
    points = [p.detach().clone()]
    for _ in range(updates):
        optimizer.zero_grad()
        problem.loss(p).backward()
        optimizer.step()
        points.append(p.detach().clone())
    return torch.stack(points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "count"), [("gradient descent", 420), ("heavy ball", 137), ("torch momentum", 137), ("adam", 117)]
)
def test_the_articles_counts(name: str, count: int, dtype: torch.dtype) -> None:
    run = simulate(ARTICLE[name][0], article(), article().start.to(dtype), steps=10_000, loss=1e-6, box=5)
    assert (run.article_count, run.steps, run.left, run.converged) == (count, count - 1, None, True)
    assert run.final.dtype == dtype and isinstance(run.final_loss, float) and run.final_loss <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_above_the_limit_the_article_leaves_at_pass_101(dtype: torch.dtype) -> None:
    run = simulate(GradientDescent(lr=2.02 / 100), article(), article().start.to(dtype), steps=10_000, loss=1e-6, box=5)
    assert (run.article_count, run.left, run.steps, run.converged) == (101, 101, None, False)
    assert float(run.final.abs().max()) >= 5 and bool(run.final.isfinite().all())


def test_at_the_limit_it_oscillates_for_ever() -> None:
    run = simulate(GradientDescent(lr=2 / 100), article(), steps=10_000, loss=1e-6, box=5)
    assert (run.steps, run.left, run.article_count) == (None, None, None)


def test_counts_at_45_degrees() -> None:
    turned = article().rotated(angle=math.pi / 4)
    rules = [ARTICLE[name][0] for name in ("gradient descent", "heavy ball", "adam")]
    counts = [simulate(rule, turned, steps=10_000, loss=1e-6, box=5).article_count for rule in rules]
    assert counts == [420, 137, 1265]


@pytest.mark.parametrize(("name", "count"), [("gradient descent", 692), ("heavy ball", 270), ("adam", 258)])
def test_a_true_radius_takes_longer(name: str, count: int) -> None:
    assert simulate(ARTICLE[name][0], article(), steps=10_000, radius=1e-6).article_count == count


def test_gradient_descent_stalls_above_the_radius_in_float32() -> None:
    run = simulate(GradientDescent(lr=SLOW), article(), article().start.float(), steps=3_000, radius=1e-6)
    assert run.steps is None
    assert float(article().distance(run.final)) == pytest.approx(2.1e-6, rel=0.1)


@pytest.mark.parametrize(("name", "settled"), [("gradient descent", 419), ("heavy ball", 160), ("adam", 165)])
def test_settled_counts_agree_with_a_torch_loop(name: str, settled: int) -> None:
    rule, make = ARTICLE[name]
    run = simulate(rule, article(), steps=1_000, loss=1e-6, settle=True)
    above = article().loss(loop(make, article(), article().start, 1_000)) > 1e-6
    assert run.last_above == int(above.nonzero().max()) == settled - 1
    assert run.settled == settled
    assert run.steps == int((~above).nonzero().min())


def test_rotated_adam_leaves_its_tolerance_again() -> None:
    turned = article().rotated(angle=math.pi / 4)
    run = simulate(Adam(lr=SLOW), turned, steps=9_500, loss=1e-6, settle=True, keep=["losses"])
    assert run.steps == 1264 and isinstance(run.last_above, int) and run.last_above > 9_000
    assert run.losses is not None and float(run.losses[9_000:].max()) > 1e-2


def test_nesterov_settles_as_tuned_at_either_point() -> None:
    """Theory's tuned counts: 94 at the iterate, 93 at torch's stored point; and never fewer on this grid."""
    lr = torch.linspace(0.005, 0.0135, 2001, dtype=torch.float64)
    for point, least in (("iterate", 94), ("stored", 93)):
        run = simulate(Nesterov(lr=lr), article(), steps=2_000, loss=1e-6, settle=True, point=point)
        assert isinstance(run.settled, Tensor)
        assert int(run.settled[run.settled != MISSING].min()) == least


TWINS = {
    "sgd": (GradientDescent(lr=1e-3), lambda p: torch.optim.SGD(p, lr=1e-3)),
    "momentum": (
        Momentum(lr=3e-4, momentum=0.9, dampening=0.5, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=3e-4, momentum=0.9, dampening=0.5, weight_decay=0.1),
    ),
    "nesterov": (
        Nesterov(lr=3e-4, momentum=0.8),
        lambda p: torch.optim.SGD(p, lr=3e-4, momentum=0.8, nesterov=True),
    ),
    "adam": (Adam(lr=1e-2), lambda p: torch.optim.Adam(p, lr=1e-2)),
    "amsgrad": (Adam(lr=1e-2, amsgrad=True), lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True)),
    "adamw": (AdamW(lr=1e-2, weight_decay=0.3), lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.3)),
    "rmsprop": (
        RMSProp(lr=1e-3, momentum=0.5, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    ),
    "adagrad": (AdaGrad(lr=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)),
}


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("name", ["quadratic", "rosenbrock", "himmelblau", "double-well", "breast-cancer", "digits"])
def test_points_are_those_of_a_torch_loop(name: str, twin: str) -> None:
    rule, make = TWINS[twin]
    problem = problem_named(name)
    run = simulate(rule, problem, steps=60, keep=("points", "losses", "radii"), point="stored")
    expected = loop(make, problem, problem.start, 60)
    assert run.points is not None and run.losses is not None and run.radii is not None
    assert run.points.shape == (61, problem.dimension) and run.losses.shape == run.radii.shape == (61,)
    assert torch.allclose(run.points, expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(run.losses, problem.loss(run.points), rtol=1e-12, atol=1e-15)
    assert torch.allclose(run.radii, problem.distance(run.points), rtol=1e-12, atol=1e-15)
    assert torch.equal(run.final, run.points[-1])


def test_the_iterate_is_not_the_stored_point() -> None:
    """Nesterov's iterate, by the article's own three lines."""
    rule, problem = Nesterov(lr=0.002, momentum=0.9), article()
    w, m = problem.start, torch.zeros(2, dtype=torch.float64)
    rows = [w]
    for _ in range(50):
        m = 0.9 * m - 0.002 * problem.gradient(w + 0.9 * m)
        w = w + m
        rows.append(w)
    run = simulate(rule, problem, steps=50, keep="points")
    assert run.points is not None and torch.allclose(run.points, torch.stack(rows), atol=1e-14)
    stored = simulate(rule, problem, steps=50, keep="points", point="stored")
    assert stored.points is not None and float((stored.points - run.points).abs().max()) > 0.1


SETTINGS: dict[str, dict[str, Any]] = {"momentum": {"momentum": 0.9}, "ema-momentum": {"momentum": 0.8}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_a_lane_is_its_single_run_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    """Every rule, on every kind of problem: lanes that end at different updates do not disturb each other."""
    lr = torch.logspace(-4, 0, 23, dtype=torch.float64)
    rule = RULES[name](lr=lr, **SETTINGS.get(name, {}))
    for problem in (article(), article().rotated(angle=0.5), Rosenbrock(), Himmelblau()):
        start = problem.start.to(dtype)
        options: dict[str, Any] = {"steps": 120, "loss": 1e-2, "box": 20.0, "keep": ("losses", "points")}
        together = simulate(rule, problem, start, **options)
        assert together.final.dtype == dtype
        for i in range(1, 23, 7):
            alone = simulate(rule.replace(lr=lr[i : i + 1]), problem, start, **options)
            agrees(alone, together, i)


def agrees(alone: Run, together: Run, i: int) -> None:
    """Lane i of `together` is the single lane of `alone`, and repeats its last row after its end."""
    for field in ("steps", "left", "final", "final_loss"):
        assert torch.equal(getattr(alone, field)[0], getattr(together, field)[i]), field
    for field in ("losses", "points"):
        short, long = getattr(alone, field)[0], getattr(together, field)[i]
        assert torch.equal(short, long[: len(short)])
        assert bool((long[len(short) :] == short[-1]).all())


def test_ending_early_changes_nothing() -> None:
    """The same lanes, told to go on to the end: up to their end the rows are the same bits."""
    lr = torch.logspace(-3, 0, 200, dtype=torch.float64)
    for problem in (article(), Himmelblau()):
        early = simulate(Adam(lr=lr), problem, steps=800, loss=1e-4, keep=("losses", "points"))
        whole = simulate(Adam(lr=lr), problem, steps=800, keep=("losses", "points"))
        assert isinstance(early.steps, Tensor) and early.points is not None and whole.points is not None
        assert early.losses is not None and whole.losses is not None
        below = whole.losses <= 1e-4
        first = torch.where(below.any(-1), below.int().argmax(-1), MISSING)
        assert torch.equal(early.steps, first) and len(set(first.tolist())) > 50
        for i, met in enumerate(early.steps.tolist()):
            last = 800 if met == MISSING else met
            end = min(last + 1, early.points.shape[1])
            assert torch.equal(early.points[i, :end], whole.points[i, :end])
            assert torch.equal(early.final[i], whole.points[i, last])


def test_grids_of_settings_and_starts_broadcast() -> None:
    lr = torch.tensor([1e-3, 2e-3, 4e-3], dtype=torch.float64).reshape(3, 1, 1)
    momentum = torch.tensor([0.5, 0.9], dtype=torch.float64).reshape(2, 1)
    starts = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    run = simulate(HeavyBall(lr=lr, momentum=momentum), article(), starts, steps=400, loss=1e-6, keep="losses")
    assert isinstance(run.steps, Tensor) and run.losses is not None
    assert run.steps.shape == (3, 2, 4) and run.final.shape == (3, 2, 4, 2) and run.losses.shape[:3] == (3, 2, 4)
    for i in range(3):
        for j in range(2):
            for k in range(4):
                rule = HeavyBall(lr=float(lr[i, 0, 0]), momentum=float(momentum[j, 0]))
                alone = simulate(rule, article(), starts[k], steps=400, loss=1e-6)
                assert (MISSING if alone.steps is None else alone.steps) == int(run.steps[i, j, k])
                assert torch.allclose(alone.final, run.final[i, j, k], atol=1e-12)


def test_lanes_of_betas() -> None:
    b1, b2 = torch.tensor([0.5, 0.9], dtype=torch.float64), torch.tensor([0.9, 0.999], dtype=torch.float64)
    run = simulate(NAdam(lr=0.01, betas=(b1, b2)), article(), steps=500, loss=1e-4)
    pairs = [(float(b1[i]), float(b2[i])) for i in (0, 1)]
    alone = [simulate(NAdam(lr=0.01, betas=pair), article(), steps=500, loss=1e-4) for pair in pairs]
    assert isinstance(run.steps, Tensor) and run.steps.tolist() == [a.steps for a in alone]


@pytest.mark.parametrize("name", RULES)
def test_divergence_is_a_count_and_never_a_nan(name: str) -> None:
    """Wild rates, a saddle, no box: whatever overflows, every number handed back is finite."""
    lr = torch.logspace(-1, 4, 12, dtype=torch.float64)
    rule = RULES[name](lr=lr, **SETTINGS.get(name, {}))
    for problem in (Rosenbrock(), Quadratic([-1.0, 50.0])):
        run = simulate(rule, problem, steps=400, loss=-0.0, settle=True, keep=("losses", "radii", "points"))
        for field in (run.losses, run.radii, run.points, run.final, run.final_loss):
            assert isinstance(field, Tensor) and bool(field.isfinite().all())


def test_without_a_box_an_overflow_is_where_a_lane_left() -> None:
    run = simulate(GradientDescent(lr=1.0), article(), steps=1000, loss=1e-6, settle=True, keep=("losses", "points"))
    # The sharp component grows by 99 an update from .6: its loss, 50 e^2, overflows once e passes 1.9e153.
    expected = math.ceil((math.log(math.sqrt(torch.finfo(torch.float64).max / 100)) - math.log(0.6)) / math.log(99))
    assert isinstance(run.left, int) and abs(run.left - expected) <= 1
    assert run.losses is not None and run.points is not None
    assert torch.equal(run.points[-1], run.points[-2]), "the row after the last finite one is held"
    assert run.last_above == 1000 and run.settled is None and run.article_count == run.left


def test_the_ball_ends_a_lane_by_its_distance() -> None:
    problem = problem_named("diabetes")
    values, vectors = torch.linalg.eigh(problem.hessian(problem.minimum))
    starts = problem.minimum + 1e-3 * torch.stack([vectors[:, -1], -vectors[:, -1]])
    for factor, leaves in ((0.99, False), (1.01, True)):
        rule = GradientDescent(lr=factor * 2 / float(values[-1]))
        run = simulate(rule, problem, starts, steps=2_000, ball=1e-2, keep="radii")
        assert isinstance(run.left, Tensor) and bool((run.left > 0).all()) is leaves
        assert run.radii is not None and bool((run.radii[:, -1] >= 1e-2).all()) is leaves
        if leaves:  # |r|^t = 10 with r = 1 - 2.02
            assert run.left.tolist() == [math.ceil(math.log(10) / math.log(1.02))] * 2


@given(
    st.lists(st.floats(0.05, 50.0), min_size=1, max_size=6),
    st.floats(0.01, 0.039),
    st.integers(0, 10_000),
)
def test_gradient_descent_follows_its_closed_form(values: list[float], lr: float, seed: int) -> None:
    """Eigencomponents shrink independently by (1 - lr lambda)^t."""
    problem = Quadratic(values, seed=seed)
    run = simulate(GradientDescent(lr=lr), problem, steps=40, keep="points")
    assert run.points is not None
    power = (1 - lr * problem.eigenvalues) ** torch.arange(41, dtype=torch.float64).unsqueeze(-1)
    assert torch.allclose(problem.components(run.points), power, atol=1e-12)


def test_deterministic_and_leaves_its_inputs_alone() -> None:
    start = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    lr = torch.logspace(-3, -1, 50, dtype=torch.float64)
    before, rate = start.detach().clone(), lr.clone()
    state = torch.random.get_rng_state()
    a, b = (simulate(Adam(lr=lr), article(), start, steps=200, loss=1e-6, box=10.0) for _ in range(2))
    assert torch.equal(a.final, b.final) and torch.equal(torch.as_tensor(a.steps), torch.as_tensor(b.steps))
    assert torch.equal(start.detach(), before) and torch.equal(lr, rate) and start.grad is None
    assert not a.final.requires_grad and torch.equal(torch.random.get_rng_state(), state)
    for _ in range(2):
        run = simulate(GradientDescent(lr=0.01), article(), before, steps=0)
        assert torch.equal(run.final, before) and run.final.data_ptr() != before.data_ptr()


def test_no_updates_only_look_at_the_start() -> None:
    run = simulate(Adam(), article(), steps=0, loss=100.0, keep=("losses", "points"))
    assert run.steps == 0 and run.article_count == 1 and run.losses is not None and run.losses.shape == (1,)
    assert run.final_loss == pytest.approx(18.32)


def test_loss_and_radius_together_must_both_be_met() -> None:
    rule = GradientDescent(lr=SLOW)
    both = simulate(rule, article(), steps=2_000, loss=1e-6, radius=1e-6)
    assert both.steps == simulate(rule, article(), steps=2_000, radius=1e-6).steps == 691
    assert simulate(rule, article(), steps=2_000, loss=1e-6, radius=1.0).steps == 419


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    simulate(Adam(), article(), steps=1000, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (10, 1000) and told[-1] == (1000, 1000) and len(told) == 100
    assert [done for done, _ in told] == sorted({done for done, _ in told})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": [6.0, 0.0], "box": 5}, "start inside, or widen"),
        ({"start": [1.0, 1.0], "ball": 0.1}, "outside the bounds"),
        ({"start": [0.0, 0.0, 0.0]}, "must be 2"),
        ({"start": 1.0}, "must be 2"),
        ({"start": [math.nan, 0.0]}, "not finite"),
        ({"start": ["a", "b"]}, "numbers"),
        ({"start": torch.zeros(0, 2)}, "no lane"),
        ({"start": torch.full((2,), 1e200, dtype=torch.float64)}, "no finite loss"),
        ({"steps": -1}, "at least 0"),
        ({"steps": 1.5}, "whole number"),
        ({"loss": math.nan}, "finite"),
        ({"radius": -1.0}, "at least 0"),
        ({"box": 0.0}, "above 0"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        simulate(Adam(), article(), **options)


@pytest.mark.parametrize("pair", [("adam", article()), (Adam(), "quadratic"), (Adam, article())])
def test_a_rule_and_a_problem_are_needed(pair: tuple[Any, Any]) -> None:
    with pytest.raises(InvalidValue, match="a rule and a problem are needed"):
        simulate(*pair)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'losses'"):
        simulate(Adam(), article(), keep="loses")
    with pytest.raises(UnknownName, match="did you mean 'iterate'"):
        simulate(Adam(), article(), point="iterates")


def test_lanes_that_do_not_fit_are_refused() -> None:
    rule: Rule = Adam(lr=torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(InvalidValue, match="do not broadcast"):
        simulate(rule, article(), torch.zeros(2, 2))


def test_a_distance_that_overflows_is_not_handed_back() -> None:
    """Sign descent far out: point and loss are finite where the squared distance is not."""
    problem = Quadratic([1e-300, 1e-300])
    run = simulate(RULES["sign-descent"](lr=1e160), problem, [1e150, 1e150], steps=3, keep=("radii", "points"))
    assert run.left == 1 and run.radii is not None and run.points is not None
    assert bool(run.radii.isfinite().all()) and bool((run.points == 1e150).all())
