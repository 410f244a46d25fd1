"""Problems: one contract for all of them, and the laws of the quadratic."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eigenstep.errors import InvalidValue, UnknownName
from eigenstep.problems import PROBLEMS, DoubleWell, Problem, Quadratic, article, problem_named
from eigenstep.problems.minimise import minimise
from eigenstep.rules import GradientDescent
from eigenstep.simulation import simulate

EXTRA = {
    "rotated": lambda: article().rotated(angle=math.pi / 4),
    "many": lambda: Quadratic(torch.logspace(-2, 2, 20), torch.linspace(-1, 1, 20), seed=3),
    "double-well-2": lambda: DoubleWell(flat=2.0, sharp=30.0, dimension=2, transverse=3.0),
}
NAMES = [*PROBLEMS, *EXTRA]


def made(name: str) -> Problem:
    return EXTRA[name]() if name in EXTRA else problem_named(name)


def near(problem: Problem, count: int = 7, spread: float = 0.3) -> Tensor:
    """Points around the start and the minima."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.cat([problem.start.unsqueeze(0), problem.minima])
    noise = torch.randn(count, problem.dimension, generator=generator, dtype=torch.float64)
    return centres[torch.arange(count) % len(centres)] + spread * noise


def double_backward(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian by autograd from the loss alone, one row at a time."""
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.loss(point), point, create_graph=True)
    rows = [torch.autograd.grad(g, point, retain_graph=True, materialize_grads=True)[0] for g in gradient]
    return gradient.detach(), torch.stack(rows)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and float((a - b).norm()) <= tolerance * (1 + float(b.norm()))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_and_hessian_are_those_of_the_loss(name: str) -> None:
    problem = made(name)
    for x in near(problem, 3 if problem.dimension > 100 else 7):
        gradient, hessian = double_backward(problem, x)
        assert close(problem.gradient(x), gradient, 1e-12)
        assert close(problem.hessian(x), hessian, 1e-11)
        assert torch.equal(problem.hessian(x), problem.hessian(x).T)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    """An independent channel: no autograd, the losses alone. The error of a central difference is of order h^2."""
    problem, h = made(name), 1e-5
    x = near(problem, 1)[0]
    for i in range(0, problem.dimension, max(1, problem.dimension // 10)):
        e = torch.zeros_like(x)
        e[i] = h
        slope = (problem.loss(x + e) - problem.loss(x - e)) / (2 * h)
        assert abs(float(slope - problem.gradient(x)[i])) < 1e-6 * (1 + float(problem.gradient(x).norm()))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_points_one_by_one(name: str) -> None:
    problem = made(name)
    x = near(problem, 6).reshape(2, 3, -1)
    losses, gradients = problem.loss_and_gradient(x)
    assert losses.shape == (2, 3) and gradients.shape == x.shape
    assert close(problem.loss(x), losses, 1e-14) and torch.equal(problem.gradient(x), gradients)
    assert problem.distance(x).shape == (2, 3)
    for i in range(2):
        for j in range(3):
            loss, gradient = problem.loss_and_gradient(x[i, j])
            assert loss.shape == () and close(loss, losses[i, j], 1e-13) and close(gradient, gradients[i, j], 1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_minima_have_no_gradient_and_no_negative_curvature(name: str) -> None:
    problem = made(name)
    assert torch.equal(problem.minimum, problem.minima[0])
    losses = problem.loss(problem.minima)
    for x in problem.minima:
        assert float(problem.gradient(x).norm()) <= 1e-8
        assert float(torch.linalg.eigvalsh(problem.hessian(x)).min()) > 0
        assert float(problem.distance(x)) == 0
    assert float(losses[0]) <= float(losses.min()) + 1e-15
    assert float(problem.loss(problem.start)) > float(losses[0])


@pytest.mark.parametrize("name", NAMES)
def test_points_set_the_precision(name: str) -> None:
    problem = made(name)
    assert problem.start.dtype == problem.minima.dtype == torch.float64
    x = near(problem, 4)
    single = problem.loss_and_gradient(x.float())
    assert all(
        part.dtype == torch.float32 for part in (*single, problem.hessian(x[0].float()), problem.loss(x.float()))
    )
    assert problem.distance(x.float()).dtype == torch.float32
    assert all(
        float((s - d).norm()) < 1e-4 * (1 + float(d.norm()))
        for s, d in zip(single, problem.loss_and_gradient(x), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_one_point_is_needed_for_a_hessian(name: str) -> None:
    problem = made(name)
    with pytest.raises(InvalidValue, match="one point"):
        problem.hessian(torch.zeros(3, problem.dimension))


@pytest.mark.parametrize("name", ["breast-cancer", "diabetes", "digits"])
def test_minima_are_found_again_and_cached(name: str) -> None:
    problem = problem_named(name)
    assert problem_named(name) is problem and problem.minima is problem.minima
    state = torch.random.get_rng_state()
    assert torch.equal(minimise(problem), problem.minimum)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_ridge_minimum_is_the_normal_equations_solution() -> None:
    """Written out from scikit-learn's arrays, with NumPy's population variance, not from the problem's own tensors."""
    from sklearn.datasets import load_diabetes

    features, target = (torch.as_tensor(a, dtype=torch.float64) for a in load_diabetes(return_X_y=True))
    features = (features - features.mean(0)) / features.std(0, unbiased=False)
    target = (target - target.mean()) / target.std(unbiased=False)
    matrix = features.T @ features / len(features) + 1e-2 * torch.eye(10, dtype=torch.float64)
    weights = torch.linalg.solve(matrix, features.T @ target / len(features))
    found = problem_named("diabetes").minimum
    assert torch.allclose(found[:-1], weights, atol=1e-12) and abs(float(found[-1])) < 1e-12


def test_logistic_minimum_is_that_of_scikit_learn() -> None:
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features, labels = load_breast_cancer(return_X_y=True)
    fitted = LogisticRegression(C=1 / (1e-2 * len(labels)), tol=1e-10, max_iter=10_000)
    fitted.fit(StandardScaler().fit_transform(features), labels)
    found = problem_named("breast-cancer").minimum
    assert torch.allclose(found[:-1], torch.as_tensor(fitted.coef_[0]), atol=1e-5)
    assert abs(float(found[-1]) - fitted.intercept_[0]) < 1e-5


def test_network_loss_is_that_of_torch_modules() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = torch.as_tensor(images[::5])
    spread = images.std(0, unbiased=False)
    images = torch.where(spread > 0, (images - images.mean(0)) / spread, 0.0)
    problem = problem_named("digits")
    first, second = torch.nn.Linear(64, 5).double(), torch.nn.Linear(5, 10).double()
    x = problem.start
    with torch.no_grad():
        for layer, values in ((first, x[:325].reshape(5, 65)), (second, x[325:].reshape(10, 6))):
            layer.weight.copy_(values[:, :-1])
            layer.bias.copy_(values[:, -1])
        entropy = torch.nn.functional.cross_entropy(second(first(images).tanh()), torch.as_tensor(labels[::5]))
    assert float(spread.min()) == 0, "a constant pixel is what standardising must survive"
    assert abs(float(problem.loss(x)) - float(entropy + 1e-2 / 2 * (x @ x))) < 1e-13


@given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=12), st.integers(0, 2**31))
def test_the_quadratic_has_the_prescribed_spectrum(values: list[float], seed: int) -> None:
    problem = Quadratic(values, seed=seed)
    vectors = problem.vectors
    identity = torch.eye(len(values), dtype=torch.float64)
    assert torch.allclose(vectors.T @ vectors, identity, atol=1e-13)
    assert abs(float(torch.linalg.det(vectors)) - 1) < 1e-12
    hessian = problem.hessian(problem.start)
    assert torch.allclose(torch.linalg.eigvalsh(hessian), torch.tensor(sorted(values), dtype=torch.float64), rtol=1e-11)
    assert torch.allclose(hessian @ vectors, vectors * problem.eigenvalues, atol=1e-11 * max(values))
    assert problem.spectrum().eigenvalues.tolist() == values


@given(st.integers(1, 12), st.integers(0, 2**31), st.booleans())
def test_components_go_there_and_back(n: int, seed: int, turned: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, minimum = torch.rand(2, n, generator=generator, dtype=torch.float64)
    problem = Quadratic(values, minimum, seed=seed if turned else None)
    x = torch.randn(5, n, generator=generator, dtype=torch.float64)
    components = problem.components(x)
    assert torch.allclose(problem.from_components(components), x, atol=1e-13)
    assert torch.allclose((values * components**2).sum(-1) / 2, problem.loss(x), atol=1e-14)
    assert torch.allclose(components.norm(dim=-1), problem.distance(x), atol=1e-13)
    again = problem.rotated(seed=seed + 1)
    assert torch.allclose(again.components(again.start), problem.components(problem.start), atol=1e-13)
    assert torch.equal(again.minimum, problem.minimum)


def test_seeds_and_angles_turn_as_told() -> None:
    a, b, c = (Quadratic([1.0, 2.0, 3.0], seed=s).vectors for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.allclose(a, c)
    quarter = Quadratic([1.0, 100.0], angle=math.pi / 2)
    assert torch.allclose(quarter.hessian(quarter.start), torch.tensor([[100.0, 0], [0, 1]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Quadratic([]), "at least one"),
        (lambda: Quadratic([1.0, math.nan]), "not finite"),
        (lambda: Quadratic([1.0, 2.0], [0.0]), "2 coordinates"),
        (lambda: Quadratic([[1.0, 2.0]]), "one-dimensional"),
        (lambda: Quadratic(["one"]), "numbers"),
        (lambda: Quadratic([1.0, 2.0, 3.0], angle=0.1), "seed"),
        (lambda: Quadratic([1.0, 2.0], angle=0.1, seed=1), "not both"),
        (lambda: DoubleWell(flat=2.0, sharp=1.0), "flat <= sharp"),
        (lambda: DoubleWell(dimension=3), "1 or 2"),
    ],
)
def test_bad_problems_are_refused(make: object, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        make()  # type: ignore[operator]


def test_unknown_problems_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'rosenbrock'"):
        problem_named("rosenbrok")


def test_the_double_well_has_the_prescribed_sharpnesses() -> None:
    well = DoubleWell(flat=4.0, sharp=100.0)
    assert [float(well.hessian(m)) for m in well.minima] == pytest.approx([4.0, 100.0], rel=1e-13)
    assert float(well.loss(well.minima).abs().max()) < 1e-16
    assert float(well.loss(torch.tensor([0.6], dtype=torch.float64))) > 1  # a barrier between them


def test_the_learning_rate_selects_the_minimum() -> None:
    """The article's claim: a well of sharpness 100 is never entered for good above lr 2 / 100, and is below."""
    well = DoubleWell(flat=4.0, sharp=100.0)
    lr = torch.tensor([0.005, 0.015, 0.0199, 0.0201, 0.025, 0.05, 0.1, 0.3], dtype=torch.float64)
    starts = torch.linspace(-2.0, 2.0, 101, dtype=torch.float64).unsqueeze(-1)
    run = simulate(GradientDescent(lr=lr.unsqueeze(-1)), well, starts, steps=20_000, radius=1e-6)
    sharp = (run.final[..., 0] - 1).abs() < 1e-5
    entered = (sharp & run.converged).double().mean(-1)
    # A start exactly on the minimum stays there at any lr; the grid has one, and no other.
    assert float(starts[75]) == 1.0
    assert bool((entered[:3] > 0.2).all()) and bool((entered[3:] <= 1.5 / 101).all())
    flat = (run.final[..., 0] + 1).abs() < 1e-5
    assert bool((flat & run.converged)[4:].double().mean(-1).ge(0.98).all())


def test_importing_problems_stays_light() -> None:
    code = (
        "import sys, eigenstep.problems, eigenstep.simulation;"
        "print([m for m in ('sklearn', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
