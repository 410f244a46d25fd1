"""Problems: minima that others find too, and the laws of the quadratic; contracts/ holds what is true of all."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eigenstep.errors import InvalidValue, UnknownName
from eigenstep.problems import DoubleWell, Quadratic, problem_named
from eigenstep.problems.minimise import minimise
from eigenstep.rules import GradientDescent
from eigenstep.simulation import simulate


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
    run = simulate(GradientDescent(lr=lr.unsqueeze(-1)), well, starts, steps=5_000, radius=1e-6)
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
