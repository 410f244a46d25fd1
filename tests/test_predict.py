"""Predictions against plain loops on dense quadratics, closed forms, and what a partial spectrum may answer."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import eigenstep as es
from eigenstep.rules import LinearRule
from eigenstep.theory import error_curve, predict

ARTICLE = es.Spectrum.from_eigenvalues([1.0, 100.0])
START = [-0.8, -0.6]
ETA = 2 / 101


# --- exact counts ---


def reference(rule: LinearRule, hessian: np.ndarray, minimum: np.ndarray, x: np.ndarray) -> Iterator[np.ndarray]:
    """The textbook loops on 1/2 (x - m)' H (x - m), from rest, without the package: the iterate, then the stored."""
    lr, w, mu = rule.lr, rule.weight_decay, getattr(rule, "momentum", 0.0)
    memory, first = np.zeros_like(x), True
    while True:
        gradient = hessian @ (x - minimum) + (0 if rule.decoupled else w) * x
        shrunk = (1 - lr * w) * x if rule.decoupled else x
        if isinstance(rule, es.GradientDescent):
            x = seen = shrunk - lr * gradient
        elif isinstance(rule, es.HeavyBall):
            memory = mu * memory - lr * gradient
            x = seen = shrunk + memory
        elif isinstance(rule, es.Momentum):
            memory = gradient if first else mu * memory + (1 - rule.dampening) * gradient
            x = seen = shrunk - lr * memory
        elif isinstance(rule, es.EMAMomentum):
            memory = mu * memory + (1 - mu) * gradient
            x = seen = shrunk - lr * memory
        else:
            memory = mu * memory + gradient
            x = shrunk - lr * (gradient + mu * memory)
            seen = x + lr * mu * memory
        first = False
        yield np.stack([seen, x])


def counted(rule: LinearRule, problem: "Random", loss: float, point: str, until: int) -> tuple[int, int]:
    """First update at or below the loss, and the first from which it stays there for `until` updates."""
    row = 0 if point == "iterate" else 1
    first, last_above = None, -1
    errors = problem.start - problem.centre
    if errors @ problem.hessian @ errors / 2 > loss:
        last_above = 0
    else:
        first = 0
    for t, points in enumerate(reference(rule, problem.hessian, problem.minimum, problem.start), start=1):
        error = points[row] - problem.centre
        if error @ problem.hessian @ error / 2 > loss:
            last_above = t
        elif first is None:
            first = t
        if t >= until:
            break
    assert first is not None
    return first, last_above + 1


class Random:
    """A random quadratic: 2 to 50 dimensions, rotated, condition to 1e4, with a random stable rule for it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 51))
        largest, condition = 10 ** rng.uniform(-2, 3), 10 ** rng.uniform(0, 4)
        self.eigenvalues = largest * condition ** -rng.uniform(0, 1, n)
        self.eigenvalues[:2] = largest, largest / condition
        q, r = np.linalg.qr(rng.standard_normal((n, n)))
        self.vectors = q * np.sign(np.diag(r))
        self.hessian = (self.vectors * self.eigenvalues) @ self.vectors.T
        self.minimum, self.start = rng.standard_normal(n), rng.standard_normal(n)
        beta, damping = rng.uniform(0, 0.97), rng.uniform(0, 0.9)
        decay = float(rng.choice([0.0, 0.0, 10 ** rng.uniform(-3, 0) * largest]))
        shared = {"weight_decay": decay, "decoupled": bool(rng.integers(2)) and decay > 0}
        shapes = [
            es.GradientDescent(**shared),
            es.HeavyBall(momentum=beta, **shared),
            es.Momentum(momentum=max(beta, 0.01), dampening=damping, **shared),
            es.EMAMomentum(momentum=beta, **shared),
            es.Nesterov(momentum=beta, **shared),
        ]
        shape = shapes[seed % len(shapes)]
        self.rule = shape.replace(lr=es.max_stable_lr(shape, largest) * rng.uniform(0.3, 0.97))
        self.point = "stored" if seed % 2 else "iterate"
        self.rest = self._fixed_point()
        # with decoupled decay the buffers rest at a value of their own: count from the unshifted minimum, by origin=
        self.centre = self.minimum if self.rule.decoupled else self.rest
        reached = rng.uniform(1.1, 3) * self.loss_at(self.rest)
        self.loss = reached + self.loss_at(self.start) * 10 ** rng.uniform(-8, -1)
        if isinstance(self.rule, es.Nesterov) and self.rule.decoupled:
            self.point = "stored"  # what rests at `rest` is the stored point then

    def _fixed_point(self) -> np.ndarray:
        """Where weight decay leaves the rule: w x balances the gradient times the rule's gain, per eigenvector."""
        rule, mu = self.rule, getattr(self.rule, "momentum", 0.0)
        gain = 1 / (1 - mu) if isinstance(rule, (es.HeavyBall, es.Nesterov, es.Momentum)) else 1.0
        if isinstance(rule, es.Momentum):
            gain *= 1 - rule.dampening
        pull = rule.weight_decay / (gain if rule.decoupled else 1.0)
        inside = self.vectors.T @ self.minimum
        return self.vectors @ (inside * self.eigenvalues / (self.eigenvalues + pull))

    def components(self, x: np.ndarray) -> np.ndarray:
        return self.vectors.T @ (x - self.centre)

    def loss_at(self, x: np.ndarray) -> float:
        return float(self.eigenvalues @ self.components(x) ** 2 / 2)


def check(seed: int) -> int:
    problem = Random(seed)
    origin = problem.components(np.zeros_like(problem.start)) if problem.rule.decoupled else None
    found = predict(
        problem.rule,
        es.Spectrum.from_eigenvalues(problem.eigenvalues),
        start=problem.components(problem.start),
        origin=origin,
        loss=problem.loss,
        point=problem.point,
    )
    assert found.settled is not None
    assert found.steps is not None
    steps = counted(problem.rule, problem, problem.loss, problem.point, found.settled + 200)
    assert (found.steps, found.settled) == steps, f"seed {seed}: {problem.rule}"
    return found.settled


def test_counts_equal_plain_loops_on_random_quadratics() -> None:
    assert max(check(seed) for seed in range(30)) > 1000


@pytest.mark.slow
def test_counts_equal_plain_loops_on_a_thousand_random_quadratics() -> None:
    for seed in range(30, 1100):
        check(seed)


def test_the_articles_counts() -> None:
    descent = predict(es.GradientDescent(lr=ETA), ARTICLE, start=START, loss=1e-6)
    assert (descent.steps, descent.settled) == (419, 419)
    for rule in (es.HeavyBall(lr=0.175 * ETA, momentum=0.9), es.Momentum(lr=0.175 * ETA, momentum=0.9)):
        found = predict(rule, ARTICLE, start=START, loss=1e-6)
        assert (found.steps, found.settled) == (136, 160)
        assert predict(rule, ARTICLE, start=START, radius=1e-6).steps == 269
    assert predict(es.GradientDescent(lr=ETA), ARTICLE, start=START, radius=1e-6).steps == 691
    both = predict(es.GradientDescent(lr=ETA), ARTICLE, start=START, radius=1e-6, loss=1e-6)
    assert both.steps == 691


def test_the_undampened_first_step_is_counted() -> None:
    rule = es.Momentum(lr=0.5, momentum=0.9, dampening=0.9)
    curve = error_curve(rule, es.Spectrum.from_eigenvalues([1.0]), [1.0], 2).squeeze(-1)
    buffer = 0.9 * 1.0 + 0.1 * 0.5
    assert curve.tolist() == pytest.approx([1.0, 0.5, 0.5 - 0.5 * buffer], abs=1e-15)


def test_counts_from_the_origin_refer_to_the_unshifted_minimum() -> None:
    rule, minimum = es.HeavyBall(lr=0.05, momentum=0.5, weight_decay=0.01), np.array([2.0, -1.0])
    eigenvalues = np.array([1.0, 20.0])
    loops = reference(rule, np.diag(eigenvalues), minimum, np.zeros(2))
    losses = [eigenvalues @ (next(loops)[0] - minimum) ** 2 / 2 for _ in range(500)]
    spectrum = es.Spectrum.from_eigenvalues(eigenvalues)
    found = predict(rule, spectrum, start=-minimum, origin=-minimum, loss=2 * losses[-1])
    assert found.steps == 1 + next(t for t, value in enumerate(losses) if value <= 2 * losses[-1])
    never = predict(rule, spectrum, start=-minimum, origin=-minimum, loss=losses[-1] / 2)
    assert never.steps is None
    assert "weight decay" in never.reasons["steps"]
    edge = predict(es.GradientDescent(lr=0.1), spectrum, start=-minimum, loss=1e-3, within=5000)
    assert edge.settled is None
    assert "not within" in edge.reasons["steps"]


def test_a_tolerance_met_at_the_start_takes_no_update() -> None:
    found = predict(es.GradientDescent(lr=ETA), ARTICLE, start=[1e-6, 1e-6], loss=1e-3)
    assert (found.steps, found.settled) == (0, 0)


@given(
    h=st.lists(st.floats(0.01, 1.9), min_size=1, max_size=4),
    e=st.floats(-1, 1).filter(lambda v: abs(v) > 1e-3),
)
def test_the_curve_of_gradient_descent_is_its_closed_form(h: list[float], e: float) -> None:
    start = [e] * len(h)
    curve = error_curve(es.GradientDescent(lr=1.0), es.Spectrum.from_eigenvalues(h), start, 700)
    t = torch.arange(701).unsqueeze(-1)
    expected = e * (1 - torch.tensor(h, dtype=torch.float64)) ** t
    torch.testing.assert_close(curve, expected, rtol=1e-10, atol=1e-200)


@pytest.mark.parametrize("lr", [0.02, 0.02 * (1 - 1e-12)])
def test_at_the_edge_nothing_settles_and_the_answer_comes_soon(lr: float) -> None:
    found = predict(es.GradientDescent(lr=lr), ARTICLE, start=START, loss=1e-6, within=100_000)
    assert (found.steps, found.settled) == (None, None)
    assert "within= allows more" in found.reasons["steps"]


def test_what_rounding_hides_is_not_called_settled() -> None:
    """Within rounding of its limit heavy ball swings nineteen times as far out as it began."""
    rule = es.HeavyBall(lr=0.038 * (1 - 1e-15))
    found = predict(rule, ARTICLE, start=[1e-9, 1e-4], loss=1e-6)
    assert (found.steps, found.settled) == (0, None)
    assert "rounding" in found.reasons["settled"]


def test_longer_blocks_count_the_same() -> None:
    """A long run, in which the block grows tenfold: to the closed form of gradient descent."""
    slow = es.Spectrum.from_eigenvalues([1e-5, 1.0])
    found = predict(es.GradientDescent(lr=1.0), slow, start=[1.0, 1.0], radius=1e-3)
    assert found.steps == found.settled == math.ceil(math.log(1e-3) / math.log1p(-1e-5))


# --- transient growth ---


def test_peaks() -> None:
    for kappa, expected in ((100.0, 3.7), (1e4, 36.8)):
        root = math.sqrt(kappa)
        beta = ((root - 1) / (root + 1)) ** 2
        lr = (2 / (root + 1)) ** 2
        found = predict(es.HeavyBall(lr=lr * (1 - 1e-12), momentum=beta), es.Spectrum.from_eigenvalues([1.0, kappa]))
        s = math.sqrt(beta)
        formula = max((1 + (1 + s) * t) * s**t for t in range(2000))
        assert found.peak == pytest.approx(formula, rel=1e-4)
        assert found.peak == pytest.approx(expected, abs=0.05)
    near = predict(es.HeavyBall(lr=3.8 * (1 - 1e-5)), es.Spectrum.from_eigenvalues([1.0]))
    assert near.peak == pytest.approx(1.9 / 0.1, rel=0.02)
    assert predict(es.GradientDescent(lr=0.5), es.Spectrum.from_eigenvalues([1.0, 3.0])).peak == 1.0


# --- rates, words, and what is not known ---


def test_rate_slowest_and_time_constants() -> None:
    found = predict(es.GradientDescent(lr=0.01), es.Spectrum.from_eigenvalues([1.0, 50.0]))
    assert found.rate == pytest.approx(0.99)
    assert found.slowest == 1.0
    assert found.time_constants.tolist() == pytest.approx([-1 / math.log(0.99), -1 / math.log(0.5)])
    assert found.condition == 50.0
    assert found.steps is None
    assert "start=" in found.reasons["steps"]


def test_the_textbook_estimate() -> None:
    found = predict(es.GradientDescent(lr=ETA), ARTICLE, start=START, loss=1e-6)
    begin = (0.8**2 + 100 * 0.6**2) / 2
    assert found.estimate == pytest.approx(math.log(1e-6 / begin) / (2 * math.log(99 / 101)), rel=1e-9)


def test_counts_from_empty_buffers_need_the_origin_when_decay_is_decoupled() -> None:
    rule = es.HeavyBall(lr=0.01, weight_decay=0.1, decoupled=True)
    blind = predict(rule, ARTICLE, start=START, loss=1e-6)
    assert any("origin=" in note for note in blind.notes)
    assert not predict(rule, ARTICLE, start=START, origin=START, loss=1e-6).notes


def test_flat_and_negative_directions_are_told_in_words() -> None:
    spectrum = es.Spectrum.from_eigenvalues([1.0, 0.0, -0.5])
    found = predict(es.GradientDescent(lr=0.1), spectrum)
    assert found.stable is False
    assert any("flat" in note and "never converges" in note for note in found.notes)
    assert any("negative" in note and "saddle" in note for note in found.notes)
    held = predict(es.GradientDescent(lr=0.1, weight_decay=1.0), spectrum)
    assert held.stable is True
    assert all("weight decay" in note for note in held.notes)


def test_a_partial_spectrum_does_not_guess() -> None:
    top = es.Spectrum.from_eigenvalues([100.0, 50.0], bounds=[1.0, 0.1], covers="top", dimension=10)
    found = predict(es.GradientDescent(lr=0.01), top, start=[1.0, 1.0], loss=0.1)
    assert found.max_stable_lr == pytest.approx(0.02)
    assert found.max_stable_lr_interval == pytest.approx((2 / 101, 2 / 99))
    for name in ("rate", "slowest", "stable", "steps", "settled", "peak", "estimate", "condition"):
        assert getattr(found, name) is None
        assert name in found.reasons
    assert predict(es.GradientDescent(lr=0.03), top).stable is False
    bottom = es.Spectrum.from_eigenvalues([0.1], covers="bottom", dimension=10)
    assert predict(es.GradientDescent(lr=0.01), bottom).max_stable_lr is None
    ends = es.Spectrum.from_eigenvalues([100.0, 1.0], covers="ends", dimension=10)
    assert predict(es.GradientDescent(lr=0.01), ends).rate == pytest.approx(0.99)


def test_adaptive_rules_answer_for_a_frozen_unit_only() -> None:
    found = predict(es.Adam(lr=0.1), ARTICLE, unit=10.0, start=START, loss=1e-6)
    assert found.max_stable_lr == pytest.approx(3.8, rel=1e-12)
    assert found.frozen_limit == found.max_stable_lr
    for name in ("steps", "settled"):
        assert getattr(found, name) is None
        assert found.reasons[name] == "P moves; simulate it"
    adagrad = predict(es.AdaGrad(lr=10.0), ARTICLE, unit=1.0)
    assert adagrad.max_stable_lr == math.inf
    assert adagrad.frozen_limit == pytest.approx(0.02)
    assert adagrad.stable is True


def test_lambda_and_a_are_never_confused() -> None:
    with pytest.raises(es.InvalidValue, match="unit="):
        predict(es.Adam(lr=0.1), ARTICLE)
    preconditioned = es.Spectrum.from_eigenvalues(
        [5.0, 1.0], operator="preconditioned", preconditioner={"rule": "adam", "t": 7}
    )
    assert predict(es.Adam(lr=0.1), preconditioned).max_stable_lr == pytest.approx(38 / 5)
    other = predict(es.RMSProp(lr=0.1), preconditioned)
    assert any("preconditioned for adam" in note for note in other.notes)
    with pytest.raises(es.InvalidValue, match="preconditioned"):
        predict(es.GradientDescent(lr=0.1), preconditioned)
    with pytest.raises(es.InvalidValue, match="leave it out"):
        predict(es.Adam(lr=0.1), preconditioned, unit=1.0)
    with pytest.raises(es.InvalidValue, match="leave it out"):
        predict(es.GradientDescent(lr=0.1), ARTICLE, unit=1.0)


def test_refusals() -> None:
    with pytest.raises(es.InvalidValue, match="lr = 0"):
        predict(es.GradientDescent(lr=0.0), ARTICLE)
    with pytest.raises(es.InvalidValue, match=r"Spectrum.from_eigenvalues"):
        predict(es.GradientDescent(lr=0.01), [1.0, 100.0])  # type: ignore[arg-type]
    with pytest.raises(es.InvalidValue, match="start must be 2 numbers"):
        predict(es.GradientDescent(lr=0.01), ARTICLE, start="ab", loss=1e-6)
    with pytest.raises(es.InvalidValue, match="one per eigenvalue"):
        predict(es.GradientDescent(lr=0.01), ARTICLE, start=[1.0], loss=1e-6)
    with pytest.raises(es.InvalidValue, match="tolerance"):
        predict(es.GradientDescent(lr=0.01), ARTICLE, start=START, loss=-1.0)
    with pytest.raises(es.InvalidValue, match="batch"):
        predict(es.GradientDescent(lr=[0.01, 0.02]), ARTICLE)
    with pytest.raises(es.InvalidValue, match="iterate"):
        predict(es.GradientDescent(lr=0.01), ARTICLE, point="elsewhere")
    with pytest.raises(es.Unsupported, match="Lion"):
        predict(es.Lion(), ARTICLE)


def test_a_prediction_is_plain_data() -> None:
    import json

    found = predict(es.AdaGrad(lr=10.0), ARTICLE, unit=1.0)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["max_stable_lr"] == "inf"
