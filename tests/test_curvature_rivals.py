"""The same operators by other libraries: their products are ours, and theirs are measured like any operator."""

import warnings
from typing import Any

import hessian_eigenthings.operators as eigenthings
import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

import eigenstep as es
from eigenstep.curvature import GGNOperator, HessianOperator, as_operator
from eigenstep.curvature.measure import operator_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it imports still uses torch.jit.script
    import curvlinops

# ... and goes on doing so at its first product.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

LOSS = nn.CrossEntropyLoss()


@pytest.fixture
def network() -> tuple[nn.Module, list[tuple[Tensor, Tensor]], es.Objective]:
    """A small network in float64, two batches of different size, and their objective.

    No LayerNorm: the derivatives that curvlinops takes are wrong through an affine one on the CPU in torch 2.13.
    """
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)).double()
    batches = [(torch.randn(n, 6, dtype=torch.float64), torch.randint(0, 4, (n,))) for n in (23, 10)]
    return model, batches, es.Objective(model, lambda m, b: LOSS(m(b[0]), b[1]), batches)


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_products_are_those_of_curvlinops(network: Any, kind: str) -> None:
    theirs = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}[kind]
    ours: Any = {"hessian": HessianOperator, "ggn": GGNOperator}[kind]
    model, batches, objective = network
    rival = theirs(model, LOSS, list(model.parameters()), batches, check_deterministic=False)
    with objective.session():
        operator = ours(objective)
        for seed in range(3):
            vector = torch.randn(objective.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            torch.testing.assert_close(operator.matvec(vector), rival @ vector, rtol=1e-9, atol=1e-11)


def test_an_operator_of_curvlinops_is_measured_as_ours(network: Any) -> None:
    model, batches, objective = network
    rival = curvlinops.HessianLinearOperator(model, LOSS, list(model.parameters()), batches, check_deterministic=False)
    own = es.measure(objective, top=3, tol=1e-8)
    theirs = es.measure(rival, top=3, tol=1e-8)
    assert own.certified
    assert theirs.certified
    torch.testing.assert_close(theirs.eigenvalues, own.eigenvalues, rtol=1e-7, atol=0)


def test_an_operator_of_hessian_eigenthings_is_measured_as_ours(network: Any) -> None:
    model, batches, objective = network
    rival = eigenthings.HessianOperator(model, batches[:1], lambda m, b: LOSS(m(b[0]), b[1]))
    one = es.Objective(model, objective.loss, batches[0])
    own, theirs = es.measure(one, top=2, tol=1e-8), es.measure(rival, top=2, tol=1e-8)
    torch.testing.assert_close(theirs.eigenvalues, own.eigenvalues, rtol=1e-7, atol=0)


@pytest.mark.parametrize("which", ["hessian", "ggn", "preconditioned"])
def test_our_operators_in_scipys_solver(network: Any, which: str) -> None:
    model, batches, objective = network
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        adam.zero_grad()
        objective.loss(model, batches[0]).backward()
        adam.step()
    options: dict[str, Any] = {"optimizer": adam} if which == "preconditioned" else {"curvature": which}
    found = es.measure(objective, top=3, tol=1e-8, **options)
    with objective.session():
        linear = operator_of(objective, **options).to_scipy()
        start = np.random.default_rng(0).standard_normal(linear.shape[0])
        values = scipy.sparse.linalg.eigsh(linear, 3, which="LA", v0=start, return_eigenvectors=False)
    assert linear.dtype == np.float64
    np.testing.assert_allclose(found.eigenvalues.numpy(), np.sort(values)[::-1], rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_scipy_is_given_is_the_operator(dtype: torch.dtype) -> None:
    half = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrix = half + half.T
    linear = as_operator(matrix).to_scipy()
    assert linear.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    np.testing.assert_array_equal(linear @ np.eye(5), matrix.to(torch.float64).numpy())
    np.testing.assert_array_equal(linear.T @ np.eye(5), linear @ np.eye(5))
    np.testing.assert_array_equal(linear @ (1j * np.eye(5)[0]), 1j * (linear @ np.eye(5)[0]))
    given = np.eye(5)[:, 0]
    first, second = linear @ given, linear @ np.eye(5)[:, 1]
    assert not np.shares_memory(first, second) and given.tolist() == [1, 0, 0, 0, 0]


def test_an_operator_of_scipy_goes_in_and_comes_out_again(network: Any) -> None:
    _, _, objective = network
    with objective.session():
        linear = HessianOperator(objective).to_scipy()
        own, back = es.measure(objective, 2, tol=1e-8), es.measure(linear, 2, tol=1e-8)
    torch.testing.assert_close(back.eigenvalues, own.eigenvalues, rtol=1e-9, atol=0)
